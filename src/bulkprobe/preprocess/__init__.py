"""From counts or TPM to what an encoder reads."""
