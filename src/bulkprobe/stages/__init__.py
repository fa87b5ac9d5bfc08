"""One thin entry point per DVC stage; with the command line the only readers of params.yaml and fixed paths."""
