"""Jobs on files: estimates, journals that make them resumable, manifests of batches, reports."""
