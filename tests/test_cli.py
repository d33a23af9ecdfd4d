"""The command line: what goes where, exit statuses, and bad input."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgewise import cli
from edgewise.cli_progress import Progress
from edgewise.runtime.options import Grammar, Sampling
from edgewise.runtime.session import Session

from .runtime.tiny_session import session_for

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """``run("verify", "bundle")``: exit status, standard output, standard error."""

    def call(*words: str | Path) -> tuple[int, str, str]:
        try:
            status = cli.main([str(word) for word in words])
        except SystemExit as end:
            status = int(end.code or 0)
        out, err = capsys.readouterr()
        return status, out, err

    return call


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], list[tuple[Any, ...]]]:
    """``opened(task)``: every bundle is a tiny random model for ``task``. Returns what was opened with."""

    def use(task: Any) -> list[tuple[Any, ...]]:
        calls: list[tuple[Any, ...]] = []

        def load(*arguments: Any, **named: Any) -> Session:
            calls.append((*arguments, named))
            return session_for(task, max_positions=48)

        monkeypatch.setattr("edgewise.runtime.load.load", load)
        return calls

    return use


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], None]:
    return lambda data: monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))


@pytest.mark.parametrize("task", ["translate", "generate", "classify"])
def test_a_text_in_a_line_out(run: Run, opened: Any, task: str) -> None:
    opened(task)
    status, out, err = run("run", "A man is riding a bicycle.", "Two dogs run.")
    assert (status, err) == (0, "")
    assert out.count("\n") == 2
    if task == "generate":
        assert out.startswith("A man is riding a bicycle.")
    if task == "classify":
        assert out.split()[0] in ("negative", "positive")


def test_fill_mask_gives_the_best_text(run: Run, opened: Any) -> None:
    opened("fill_mask")
    status, out, _ = run("run", "A man is <mask> a bicycle.")
    assert status == 0
    assert out.startswith("A man is")
    assert "<mask>" not in out


def test_lines_of_standard_input_with_blanks_between(run: Run, opened: Any, stdin: Any) -> None:
    opened("translate")
    stdin(b"A man is riding a bicycle.\n\n   \nTwo dogs run.\r\nA hat")
    status, out, err = run("run", "--batch-size", "2", "-")
    assert (status, err) == (0, "")
    lines = out.split("\n")
    assert len(lines) == 6
    assert lines[1] == lines[2] == lines[5] == ""
    assert all(lines[i] for i in (0, 3, 4))


@pytest.mark.parametrize("words", [(), ("-",)], ids=["nothing", "dash"])
def test_standard_input_is_the_default(run: Run, opened: Any, stdin: Any, words: tuple[str, ...]) -> None:
    opened("translate")
    stdin(b"A man.\n")
    assert run("run", *words)[1].count("\n") == 1


def test_json_is_an_object_a_line(run: Run, opened: Any, stdin: Any) -> None:
    opened("translate")
    stdin(b"A man.\n\nTwo dogs run.\n")
    status, out, _ = run("run", "--json", "--beam-size", "3", "--n-best", "2")
    assert status == 0
    first, blank, last = map(json.loads, out.splitlines())
    assert first["input"] == "A man."
    assert blank == {"input": "", "output": ""}
    assert len(last["hypotheses"]) == 2
    assert first["score"] == pytest.approx(sum(first["token_log_probs"]))
    assert {"tokens", "finish_reason", "truncated", "seconds", "normalized_score"} <= set(first)


def test_what_needs_attention(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: Any, **__: Any) -> Session:
        return session_for("translate", max_positions=48, changes={"alignment_layer": 1})

    monkeypatch.setattr("edgewise.runtime.load.load", load)
    expected = load().translate("A man.", alignments=True).hypotheses[0]
    assert expected.alignment is not None
    covered = load().translate("A man.", beam_size=3, coverage_penalty=0.5).hypotheses[0]
    out = run("run", "--json", "--beam-size", "3", "--coverage-penalty", "0.5", "A man.")[1]
    assert json.loads(out)["normalized_score"] == pytest.approx(covered.normalized_score)
    status, out, _ = run("run", "--json", "--alignments", "A man.")
    assert status == 0
    found = json.loads(out)["hypotheses"][0]["alignment"]
    np.testing.assert_allclose(found["weights"], expected.alignment.weights, atol=1e-6)
    assert [(tuple(w["source"]), tuple(w["target"])) for w in found["words"]] == [
        (w.source, w.target) for w in expected.alignment.words
    ]
    assert json.loads(run("run", "--json", "A man.")[1])["hypotheses"][0]["alignment"] is None


@pytest.mark.parametrize(
    ("words", "arguments"),
    [
        ("--temperature 0.7 --top-k 40 --seed 3", {"sampling": Sampling(temperature=0.7, top_k=40, seed=3)}),
        ("--top-p 0.9 --min-p 0.01 --typical-p 0.95 --seed 1 --samples 2", {
            "sampling": Sampling(top_p=0.9, min_p=0.01, typical_p=0.95, seed=1, samples=2)
        }),
        ("--beam-size 4 --early-stopping true --patience 0.5", {
            "beam_size": 4, "early_stopping": True, "patience": 0.5
        }),
        ("--regex (dogs?|man)", {"grammar": Grammar(regex="(dogs?|man)")}),
        ("--beam-size 4 --include dog --include hat", {"beam_size": 4, "include": ["dog", "hat"]}),
        ("--beam-size 2 --early-stopping never", {"beam_size": 2, "early_stopping": "never"}),
        ("--beam-size 2 --early-stopping false", {"beam_size": 2}),
        ("--beam-size 4 --beam-groups 2 --diversity-penalty 0.5", {
            "beam_size": 4, "beam_groups": 2, "diversity_penalty": 0.5
        }),
        ("--alternatives 3 --prefix Ein", {"alternatives": 3, "prefix": "Ein"}),
        ("--prefix Ein --prefix-bias 0.4 --beam-size 3", {"prefix": "Ein", "prefix_bias": 0.4, "beam_size": 3}),
        ("--repetition-penalty 1.5 --presence-penalty 0.5 --frequency-penalty 0.2", {
            "repetition_penalty": 1.5, "presence_penalty": 0.5, "frequency_penalty": 0.2
        }),
        ("--no-repeat-ngram 1 --min-new-tokens 5 --max-new-tokens 6", {
            "no_repeat_ngram": 1, "min_new_tokens": 5, "max_new_tokens": 6
        }),
        ("--suppress man --suppress dog --stop e --deadline 60", {
            "suppress": ["man", "dog"], "stop": ["e"], "deadline": 60
        }),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_decoding_options_are_those_of_the_session(
    run: Run, opened: Any, words: str, arguments: dict[str, Any]
) -> None:
    opened("translate")
    status, out, err = run("run", "--json", *words.split(), "A man rides.")
    assert (status, err) == (0, "")
    expected = session_for("translate", max_positions=48).translate("A man rides.", **arguments)
    assert [h["text"] for h in json.loads(out)["hypotheses"]] == [h.text for h in expected.hypotheses]
    assert json.loads(out)["score"] == pytest.approx(expected.score)


@pytest.mark.parametrize("task", ["generate", "classify", "fill_mask"])
def test_json_of_other_tasks(run: Run, opened: Any, task: str) -> None:
    opened(task)
    result = json.loads(run("run", "--json", "A <mask> man")[1])
    assert result["input"] == "A <mask> man"
    assert {"generate": "tokens", "classify": "probabilities", "fill_mask": "fills"}[task] in result


def test_a_folder_with_a_manifest_is_the_bundle(run: Run, opened: Any, tmp_path: Path) -> None:
    calls = opened("translate")
    bundle = tmp_path / "my bundle"
    bundle.mkdir()
    (bundle / "manifest.json").write_text("{}")
    run("run", bundle, "A man.")
    assert calls[-1][0] == bundle
    run("run", "A man.", str(bundle))
    assert calls[-1][0] is None
    run("run", "--bundle", bundle, "A man.", "--target", "cpu", "--precision", "fp32", "--threads", "1")
    assert calls[-1][:4] == (bundle, "cpu", "fp32", 1)
    assert calls[-1][-1] == {"verify": True}
    run("run", "--skip-hashes", "A man.")
    assert calls[-1][-1] == {"verify": False}


def test_a_path_that_is_no_bundle_is_no_text(run: Run, tmp_path: Path) -> None:
    status, out, err = run("run", tmp_path, "A man.")
    assert (status, out) == (1, "")
    assert str(tmp_path) in err
    assert "Traceback" not in err


def test_bytes_that_are_no_utf8_are_replaced_with_a_warning(run: Run, opened: Any, stdin: Any) -> None:
    opened("translate")
    stdin("\ufeffA man.\n".encode() + b"A caf\xe9.\n" + "ok \ufffd\n".encode())
    status, out, err = run("run", "--json")
    inputs = [json.loads(line)["input"] for line in out.splitlines()]
    assert status == 0
    assert inputs == ["A man.", "A caf\ufffd.", "ok \ufffd"]
    assert err == "edgewise: warning: line 2 is not UTF-8; its bad bytes became U+FFFD\n"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"A man.\nA \x00 man.\nA hat.\n", "line 2: text 0 holds a NUL at character 2"),
        (b"A man.\n" + b"man " * 60 + b"\nA hat.\n", "line 2: text 0 has .* tokens, more than the 48"),
    ],
    ids=["nul", "too-long"],
)
def test_what_comes_before_a_bad_line_is_not_lost(run: Run, opened: Any, stdin: Any, data: bytes, message: str) -> None:
    opened("translate")
    stdin(data)
    status, out, err = run("run")
    assert status == 1
    assert out.count("\n") == 1
    assert pytest.raises(AssertionError, match=message).matches(AssertionError(err))
    assert "Traceback" not in err


def test_a_text_cut_to_the_context_is_said(run: Run, opened: Any) -> None:
    opened("translate")
    status, out, err = run("run", "--overflow", "truncate", "man " * 60, "--json")
    assert status == 0
    assert json.loads(out)["truncated"] is True
    assert "text 1 is longer than the context and was cut" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "the following arguments are required: COMMAND"),
        (("translate",), "invalid choice: 'translate'"),
        (("run", "--threads", "0", "A man."), "'0' is no whole number of at least 1"),
        (("run", "--beam-size", "five", "A man."), "'five' is no whole number of at least 1"),
        (("run", "--n-best", "2", "A man."), "add --json"),
        (("run", "--samples", "2", "A man."), "--samples gives several lines for one: add --json"),
        (("run", "--alternatives", "2", "A man."), "--alternatives gives several lines for one: add --json"),
        (("run", "--alignments", "A man."), "--alignments has no place in a line of text: add --json"),
        (("run", "--early-stopping", "always", "A man."), "invalid choice: 'always'"),
        (("run", "--overflow", "split", "A man."), "invalid choice: 'split'"),
        (("export", "checkpoint"), "required: -o/--output"),
        (("export", "checkpoint", "-o", "x", "--precision", "int3"), "invalid choice: 'int3'"),
        (("export", "checkpoint", "-o", "x", "--eval", "one"), "expected 2 arguments"),
        (("verify", "--speed"), "unrecognized arguments: --speed"),
    ],
    ids=lambda value: "-".join(value) or "nothing" if isinstance(value, tuple) else "",
)
def test_usage_errors_end_with_2_and_a_hint(run: Run, opened: Any, words: tuple[str, ...], message: str) -> None:
    opened("translate")
    status, out, err = run(*words)
    assert (status, out) == (2, "")
    assert message in err
    assert "--help' explains it" in err


def test_a_json_schema_is_read_from_a_file(run: Run, opened: Any, tmp_path: Path) -> None:
    opened("translate")
    (tmp_path / "schema.json").write_text('{"enum": ["dog", "man"]}')
    status, out, _ = run("run", "--json-schema", tmp_path / "schema.json", "A man.")
    assert (status, json.loads(out) in ("dog", "man")) == (0, True)
    (tmp_path / "schema.json").write_text("{")
    status, _, err = run("run", "--json-schema", tmp_path / "schema.json", "A man.")
    assert status == 1
    assert "schema.json is no JSON (" in err
    assert "--json-schema takes a file with a JSON schema" in err
    (tmp_path / "schema.json").write_text('{"not": ' * 100_000 + "{}" + "}" * 100_000)
    status, _, err = run("run", "--json-schema", tmp_path / "schema.json", "A man.")
    assert status == 1
    assert "schema.json is no JSON (maximum recursion depth exceeded" in err


def test_options_that_contradict_each_other_are_refused(run: Run, opened: Any) -> None:
    opened("translate")
    status, out, err = run("run", "--top-p", "0.9", "--beam-size", "3", "A man.")
    assert (status, out) == (1, "")
    assert "sampling needs beam_size 1, this is 3: choose one of the two" in err
    assert "top_p (2.0) must be a number above 0 and at most 1" in run("run", "--top-p", "2", "A man.")[2]


def test_options_that_mean_nothing_for_the_task_are_refused(run: Run, opened: Any) -> None:
    opened("classify")
    assert "--top-k: a bundle made for classify does not decode" in run("run", "--top-k", "5", "A man.")[2]
    status, _, err = run("run", "--beam-size", "5", "A man.")
    assert status == 2
    assert "--beam-size: a bundle made for classify does not decode" in err


@pytest.mark.parametrize("command", ["run", "verify", "inspect", "bench"])
def test_bad_bundles_fail_with_1_and_a_message(run: Run, command: str, tmp_path: Path) -> None:
    arguments = (command, "--bundle", tmp_path, "text") if command == "run" else (command, tmp_path)
    status, out, err = run(*arguments)
    assert (status, out) == (1, "")
    assert err.startswith("edgewise: error: ")
    assert "manifest.json" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [("--target", "tpu", "target 'tpu' is unknown"), ("--precision", "int2", "precision 'int2' is unknown")],
)
def test_unknown_targets_and_precisions_are_named(run: Run, option: str, value: str, message: str) -> None:
    status, _, err = run("run", option, value, "A man.")
    assert status == 1
    assert message in err


def test_text_that_is_no_text_fails_with_1(run: Run, opened: Any) -> None:
    opened("translate")
    status, _, err = run("run", "A \ud800 man.")
    assert status == 1
    assert "lone surrogate U+D800" in err


def test_export_without_its_libraries_says_how_to_get_them(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "torch" else object())
    status, _, err = run("export", "checkpoint", "-o", "bundle")
    assert status == 1
    assert "export needs torch, not installed here: pip install 'edgewise[export]'" in err
    assert "https://download.pytorch.org/whl/cpu" in err


def test_version_and_help(run: Run) -> None:
    assert run("--version")[1].startswith("edgewise ")
    status, out, _ = run("--help")
    assert status == 0
    assert all(command in out for command in ("export", "verify", "run", "inspect", "bench"))


def test_progress_is_for_standard_error_only(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("export") as progress:
        progress.seconds_between = 0.0  # type: ignore[misc]
        progress(1, 4, "graphs")
    out, err = capsys.readouterr()
    assert (out, err) == ("", "edgewise: export: 1 of 4 graphs\n")


def test_python_m_edgewise_is_the_command_line() -> None:
    done = subprocess.run([sys.executable, "-m", "edgewise", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("edgewise ")


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path: Path) -> None:
    script = "import sys; from edgewise import cli; cli.main(['--help'])"
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-c", script], stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert b"Traceback" not in done.stderr


def test_recommended_sampling(run: Run, opened: Any) -> None:
    opened("generate")
    status, _, err = run("run", "--recommended-sampling", "A man")
    assert (status, err) == (
        1,
        "edgewise: error: text 1: this bundle recommends no sampling: pass edgewise.Sampling(...)\n",
    )
    status, _, err = run("run", "--recommended-sampling", "--seed", "1", "A man")
    assert (status, err) == (1, "edgewise: error: --recommended-sampling says all of it: leave out --seed\n")
    opened("classify")
    assert run("run", "--recommended-sampling", "A man")[0] == 2


def test_sentence_by_sentence(run: Run, opened: Any) -> None:
    opened("translate")
    whole = session_for("translate", max_positions=48).translate_document("A man. Two dogs run!")
    assert run("run", "--sentences", "--", "A man. Two dogs run!") == (0, f"{whole.text}\n", "")
    status, out, _ = run("run", "--json", "--sentences", "de", "A man. Two dogs run!")
    (answer,) = map(json.loads, out.splitlines())
    assert (status, answer["output"]) == (0, whole.text)
    assert [(s["source"], s["target"]) for s in answer["sentences"]] == [
        (list(s.source), list(s.target)) for s in whole.sentences
    ]
    opened("classify")
    status, _, err = run("run", "--sentences", "--", "A man.")
    assert (status, "--sentences: a bundle made for classify translates nothing" in err) == (2, True)
