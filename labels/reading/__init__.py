"""What readers share: documents, checks of labels, and the builder of a dataset."""
