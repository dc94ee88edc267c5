"""Thoughts told from answers, however the text is cut."""

import pytest

from serve_app.chat.thinking import ThinkSplitter

CASES = {
    "<think>hm</think>\n\nSix.": ("hm", "Six."),
    "  <think>a <b> </thin c</think>Six": ("a <b> </thin c", "Six"),
    "<think>never ends </thi": ("never ends </thi", ""),
    "<think></think>": ("", ""),
    "plain <think>x</think>": ("", "plain <think>x</think>"),
    "<thin ice": ("", "<thin ice"),
    "<think>a</think>b<think>c</think>": ("a", "b<think>c</think>"),
    "<thi": ("", "<thi"),
    "": ("", ""),
}


@pytest.mark.parametrize("text", CASES)
def test_every_cut(text: str) -> None:
    cuts = [[text], list(text), *([text[:at], text[at:]] for at in range(1, len(text)))]
    for pieces in cuts:
        splitter = ThinkSplitter("<think>", "</think>")
        told = [part for piece in pieces for part in splitter.push(piece)] + splitter.finish()
        assert all(piece for piece, _ in told)
        thoughts, answer = ("".join(piece for piece, thought in told if thought is kind) for kind in (True, False))
        assert (thoughts, answer) == CASES[text]
