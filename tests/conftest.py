"""What all tests share."""

import importlib

# Before anything imports pandas: datumaro puts a second one in the place of one that is there, which lacks its C part.
from datumaro.util import import_util

import_util.lazy_import = importlib.import_module
