"""Training of SRCNNs and of the sparse-coding baseline. Running a model imports nothing from here."""
