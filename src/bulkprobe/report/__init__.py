"""Tables, figures, plot files and the one self-contained page, made from metrics and predictions alone."""
