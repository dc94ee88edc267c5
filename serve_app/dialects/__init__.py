"""Dialects: the APIs that clients speak, each as wire shapes and pure functions between them and the app's values."""
