"""How far bulk tumours lie from single cells: in what an encoder reads, and in where it puts them."""
