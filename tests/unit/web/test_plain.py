from agent.control.web.items import plain_text


def test_colours_and_titles_are_removed():
    data = (
        b"\x1b[1;31mred\x1b[0m \x1b]0;a title\x07plain \x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\\n"
    )

    assert plain_text(data, from_start=True) == "red plain link\n"


def test_a_progress_bar_shows_its_last_drawing():
    assert plain_text(b"  1%\r 50%\r100%\r\nnext\n", from_start=True) == "100%\nnext\n"


def test_a_line_that_is_cut_at_its_start_is_left_out():
    assert plain_text(b"ond half\nwhole\n", from_start=False) == "whole\n"


def test_a_single_line_is_shown_even_when_it_is_cut():
    assert plain_text(b"ond half", from_start=False) == "ond half"


def test_undecodable_bytes_and_controls_are_replaced_or_removed():
    assert plain_text(b"a\xff\x00\x08b\x1b", from_start=True) == "a�b"


def test_a_huge_line_is_cut():
    assert len(plain_text(b"x" * 100_000, from_start=True)) < 5000
