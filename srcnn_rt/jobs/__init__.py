"""Files and folders, so that nothing is lost: journals, manifests, reports, estimates."""
