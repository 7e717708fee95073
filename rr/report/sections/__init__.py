"""The sections of the page, one module each, and `code_versions`, which two of them use."""
