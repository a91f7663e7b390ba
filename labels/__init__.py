"""Datasets on disk: read, checked, summarized, converted and written, in every format of the field.

`opening.open_dataset` returns a `dataset.Dataset` of `labeled_image.LabeledImage` objects from a folder or file. Each
format is one module in `formats`, with its reader and its writer; `formats.FORMATS` is the table of them. A dataset
that one format reads can be written in every other one. To add a format, add a module with `recognize`, `read` and a
`DatasetWriter`, and a row in the table.
"""
