"""Checks whether this machine can run a configuration (`phi-serve doctor`). Starts nothing; knows no Ray and no engine."""
