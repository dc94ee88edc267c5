"""What is measured, one command each; see docs/performance.md."""
