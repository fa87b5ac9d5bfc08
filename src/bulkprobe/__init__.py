"""bulkprobe: do gene-expression foundation models carry over to bulk RNA-seq of tumours?"""

__version__ = "0.1.0"
