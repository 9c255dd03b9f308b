"""The main job: one matrix, most of its entries missing, completed by several methods side by side."""

from dlngeo.compare.load import Data, DataError, load, photograph
from dlngeo.compare.report import save, table
from dlngeo.compare.run import Settings, compare

__all__ = ["Data", "DataError", "Settings", "compare", "load", "photograph", "save", "table"]
