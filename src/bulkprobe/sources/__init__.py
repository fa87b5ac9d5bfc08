"""Where data come from: the only room that opens the network, and the simulator that replaces it."""
