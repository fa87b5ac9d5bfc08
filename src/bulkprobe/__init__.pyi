from bulkprobe.notebook import Store, UserError, build_cohort, embed, list_encoders, predict, probe, read_store

__all__ = ["Store", "UserError", "build_cohort", "embed", "list_encoders", "predict", "probe", "read_store"]
__version__: str
