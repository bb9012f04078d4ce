//! Collectives on GPU memory over NCCL.
