"""How far bulk input lies from single cells, and what a change of the input does to an embedding."""
