"""Chat handling: template, tokenizer and text stream, shared by every engine and dialect."""
