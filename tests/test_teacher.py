"""nanoenvisions/teacher.py: a teacher's file, and a server that is slow, wrong, overloaded or gone."""
import contextlib
import http.server
import json
import queue
import threading
import time

import pytest

import envs
import explore
from nanoenvisions import teacher

TASKS = [{"id": f"t{i}", "env": "math", "question": f"How much is {i} + 1?", "answer": i + 1} for i in range(3)]
KEY = "sk-secret-123"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(teacher, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(teacher, "TRIES", 3)
    monkeypatch.setenv(teacher.KEY, KEY)


@contextlib.contextmanager
def server(behave):
    """A real one: behave(handler, number of the request from 0 on); its address, and what it got."""
    got, lock = [], threading.Lock()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                number = len(got)
                got.append((self.path, self.headers.get("Authorization"), body, time.monotonic()))
                self.prompt = body["messages"][0]["content"]
            with contextlib.suppress(OSError):  # the client may be gone
                behave(self, number)

        def log_message(self, *_):
            pass
    one = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=one.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{one.server_port}/v1", got
    one.shutdown()
    one.server_close()


def answer(handler, body, code=200, **headers):
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    handler.send_response(code)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def text(program):
    return {"choices": [{"message": {"role": "assistant", "content": program}}]}


def good(handler, number):
    answer(handler, text(f"Here you are:\n```python\ndef solution():\n    return {number}\n```\nDone."))


def run(folder, *flags):
    """explore.py in this process, so that the pauses above are short: its records."""
    (folder / "tasks.jsonl").write_text("".join(map(envs.dump, TASKS)))
    explore.main(["--in", f"{folder}/tasks.jsonl", "--out", f"{folder}/out.jsonl", "--num-samples", "2",
                  "--metrics", f"{folder}/metrics.jsonl", *map(str, flags)])
    return envs.read_jsonl(folder / "out.jsonl")


def ask(folder, url, *flags):
    return run(folder, "--teacher-url", url, "--teacher-model", "wise", *flags)


def everything_written(folder) -> str:
    return "".join(path.read_text() for path in folder.rglob("*") if path.is_file())


# ---------------------------------------------------------------------------------- The server --

def test_its_programs_become_candidates(tmp_path, capsys):
    """K for each task, without fences, without r; its prompt has the examples; no key is kept."""
    with server(good) as (url, got):
        records = ask(tmp_path, url, "--temperature", 0.4)
    assert {(one["id"], one["candidate"]) for one in records} == {(f"t{i}", k) for i in range(3) for k in range(2)}
    assert sorted(one["program"] for one in records) == [f"def solution():\n    return {n}" for n in range(6)]
    for one in records:
        assert (one["source"], one["iteration"], one["teacher"]) == ("explore", 0, "wise")
        assert "logprob" not in one and one["answer"] == TASKS[int(one["id"][1])]["answer"]
    prompts = {envs.solve_prompt(task, few_shot=True) for task in TASKS}
    for path, key, body, _ in got:
        assert path == "/v1/chat/completions" and key == f"Bearer {KEY}"
        assert (body["model"], body["temperature"], body["top_p"]) == ("wise", 0.4, 0.95)
        assert body["messages"][0]["content"] in prompts
    row, = envs.read_jsonl(tmp_path / "metrics.jsonl")
    assert (row["stage"], row["programs"], row["requests"], row["tasks"]) == ("explore", 6, 6, 3)
    said = capsys.readouterr()
    assert KEY not in everything_written(tmp_path) + said.out + said.err


def test_without_a_key_none_is_sent(tmp_path, monkeypatch):
    monkeypatch.delenv(teacher.KEY)
    with server(good) as (url, got):
        ask(tmp_path, url.removesuffix("/v1") + "/", "--num-samples", 1)
    assert [one[:2] for one in got] == [("/v1/chat/completions", None)] * 3


FAULTS = {
    "overloaded": lambda handler: answer(handler, b"busy", 503),
    "wrong JSON": lambda handler: answer(handler, b'{"choices": ['),
    "no choices": lambda handler: answer(handler, {"error": {"message": "no"}}),
    "no text": lambda handler: answer(handler, {"choices": [{"message": {"content": None}}]}),
    "a list": lambda handler: answer(handler, [1]),
    "cut short": lambda handler: (handler.send_response(200), handler.send_header("Content-Length", "999"),
                                  handler.end_headers(), handler.wfile.write(b'{"choices"')),
    "nothing at all": lambda handler: handler.connection.close(),
    "no HTTP": lambda handler: handler.wfile.write(b"SSH-2.0-OpenSSH\r\n\r\n")}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_may_pass_is_tried_again(tmp_path, fault):
    """The first two requests fail, whichever they are; all programs come nevertheless."""
    with server(lambda handler, n: FAULTS[fault](handler) if n < 2 else good(handler, n)) as (url, got):
        records = ask(tmp_path, url)
    assert len(records) == 6 and len(got) == 8


@pytest.mark.parametrize("fault", FAULTS)
def test_what_does_not_pass_is_one_line(tmp_path, fault):
    with server(lambda handler, n: FAULTS[fault](handler)) as (url, got):
        with pytest.raises(SystemExit) as error:
            ask(tmp_path, url)
    message = str(error.value)
    assert len(message.splitlines()) == 1 and "3 times" in message and url in message
    assert not (tmp_path / "out.jsonl").exists() and len(got) <= 12


def test_a_limit_on_the_rate_is_heeded(tmp_path):
    """429 with Retry-After: 1: the next try comes a second later, not after a hundredth."""
    with server(lambda handler, n: answer(handler, b"{}", 429, Retry_After="1") if n == 0
                else good(handler, n)) as (url, got):
        assert len(ask(tmp_path, url, "--limit", 1, "--num-samples", 1)) == 1
    assert len(got) == 2 and 0.9 < got[1][3] - got[0][3] < 50


def test_a_limit_on_the_rate_that_is_no_number(tmp_path):
    with server(lambda handler, n: answer(handler, b"{}", 429, Retry_After="\u00b2") if n == 0
                else good(handler, n)) as (url, _):
        assert len(ask(tmp_path, url, "--limit", 1, "--num-samples", 1)) == 1


def test_a_slow_server_is_not_waited_for(tmp_path):
    """Silent, or a byte now and then, beyond --teacher-timeout."""
    def silent(handler):
        return finished.wait(20)

    def drips(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", "100000")
        handler.end_headers()
        for _ in range(400):
            with contextlib.suppress(OSError):  # the client is gone, as it should be
                handler.wfile.write(b" ")
                handler.wfile.flush()
            if finished.wait(0.05):
                return True
        return False
    for slow in (silent, drips):
        finished, in_time = threading.Event(), queue.Queue()
        with server(lambda handler, n: in_time.put(slow(handler)) if n == 0 else good(handler, n)) as (url, got):
            assert len(ask(tmp_path, url, "--limit", 1, "--num-samples", 1, "--teacher-timeout", 0.5)) == 1
            finished.set()
            assert in_time.get(timeout=60) and len(got) == 2  # the client ended while the first was still slow
        (tmp_path / "out.jsonl").unlink()


def test_a_server_that_is_gone(tmp_path):
    with server(good) as (url, _):
        pass
    with pytest.raises(SystemExit, match="refused, 3 times .run again") as error:
        ask(tmp_path, url)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("code", [400, 401, 404])
def test_a_refusal_is_not_tried_again_and_does_not_show_the_key(tmp_path, code, capsys):
    refusal = {"error": {"message": f"Incorrect API key provided:\n {KEY}. No model wise."}}
    with server(lambda handler, n: answer(handler, refusal, code)) as (url, got):
        with pytest.raises(SystemExit, match=f"HTTP {code} .*No model wise.*check --teacher-url") as error:
            ask(tmp_path, url, "--limit", 1, "--num-samples", 1)
    assert len(got) == 1 and len(str(error.value).splitlines()) == 1
    said = capsys.readouterr()
    assert KEY not in str(error.value) + everything_written(tmp_path) + said.out + said.err


def test_the_key_is_not_sent_elsewhere(tmp_path):
    """A redirection is refused: urllib would send the key along."""
    with server(good) as (elsewhere, stolen), server(
            lambda handler, n: answer(handler, b"", 302, Location=elsewhere)) as (url, _):
        with pytest.raises(SystemExit, match="HTTP 302"):
            ask(tmp_path, url)
    assert not stolen


def test_a_key_that_cannot_be_one_is_not_shown(tmp_path, monkeypatch):
    monkeypatch.setenv(teacher.KEY, f"{KEY}\nX-Other: 1")
    with pytest.raises(SystemExit, match="TEACHER_API_KEY has blanks") as error:
        ask(tmp_path, "http://127.0.0.1:9")
    assert KEY not in str(error.value)


def test_never_more_requests_than_allowed(tmp_path, capsys):
    """5 of 8, two of them wasted: the other three each give a program, whichever they are."""
    with server(lambda handler, n: FAULTS["overloaded"](handler) if n < 2 else good(handler, n)) as (url, got):
        records = ask(tmp_path, url, "--teacher-limit", 5)
    assert len(got) == 5 and len({(one["id"], one["candidate"]) for one in records}) == len(records) == 3
    assert "3 programs were not asked for: --teacher-limit is 5" in capsys.readouterr().out


def test_the_first_candidates_come_first(tmp_path):
    """3 requests for three tasks: one each, not two for a task and none for another."""
    with server(good) as (url, _):
        records = ask(tmp_path, url, "--teacher-limit", 3)
    assert [(one["id"], one["candidate"]) for one in records] == [("t0", 0), ("t1", 0), ("t2", 0)]


def test_what_was_paid_for_is_kept_though_an_earlier_one_failed(tmp_path):
    """The first task never gets an answer; those that were under way with it do, after it failed."""
    served = threading.Semaphore(0)

    def first_is_lost(handler, number):
        if TASKS[0]["question"] in handler.prompt:
            answer(handler, b"busy", 503)
            served.release()
        else:
            served.acquire(timeout=20)  # so an answer comes after a failure
            good(handler, number)
    with server(first_is_lost) as (url, _):
        with pytest.raises(SystemExit, match="HTTP 503 busy, 3 times .run again"):
            ask(tmp_path, url)
        kept = envs.read_jsonl(tmp_path / "out.jsonl.part")
        assert [(one["id"], one["candidate"]) for one in kept] == [("t1", 0), ("t2", 0)]
    with server(good) as (other, got):
        settings = json.loads((tmp_path / "out.jsonl.part.settings").read_text())
        (tmp_path / "out.jsonl.part.settings").write_text(envs.dump({**settings, "teacher_url": other}))
        records = ask(tmp_path, other)
    assert len(got) == 4 and len({(one["id"], one["candidate"]) for one in records}) == len(records) == 6


def test_a_limit_without_a_single_answer(tmp_path):
    with server(lambda handler, n: FAULTS["overloaded"](handler)) as (url, got):
        with pytest.raises(SystemExit, match="no program for any of the 3 tasks .raise --teacher-limit"):
            ask(tmp_path, url, "--teacher-limit", 2)
    assert len(got) == 2


def test_a_stopped_run_asks_for_the_rest_only(tmp_path):
    """The server dies after four programs; those written are kept, and not asked for again."""
    def dies(handler, number):
        good(handler, number) if number < 4 else FAULTS["overloaded"](handler)
    with server(dies) as (url, _):
        with pytest.raises(SystemExit):
            ask(tmp_path, url)
    kept = (tmp_path / "out.jsonl.part").read_text()
    done = len(kept.splitlines())
    assert done == 4
    with server(good) as (other, got):
        with pytest.raises(SystemExit, match="begun with other settings"):
            ask(tmp_path, other)
        settings = json.loads((tmp_path / "out.jsonl.part.settings").read_text())
        assert not got and KEY not in json.dumps(settings)
        (tmp_path / "out.jsonl.part.settings").write_text(envs.dump({**settings, "teacher_url": other}))
        records = ask(tmp_path, other)
    assert len(records) == 6 and len(got) == 6 - done
    assert (tmp_path / "out.jsonl").read_text().startswith(kept)


# ------------------------------------------------------------------------------------ The file --

def write_programs(folder, *rows):
    (folder / "teacher.jsonl").write_text("".join(map(envs.dump, rows)))
    return "--teacher-file", folder / "teacher.jsonl"


def test_programs_from_a_file_by_id_or_question(tmp_path, capsys):
    """Up to K a task, in the file's order; what is left out is said; unknown tasks are ignored."""
    flags = write_programs(tmp_path, *({"id": "t0", "program": f"a = {n}"} for n in range(3)),
                           {"question": TASKS[1]["question"], "program": "```python\nb = 1\n```"},
                           {"id": "elsewhere", "program": "c = 1"})
    records = run(tmp_path, *flags)
    assert [(one["id"], one["candidate"], one["program"]) for one in records] == [
        ("t0", 0, "a = 0"), ("t1", 0, "b = 1"), ("t0", 1, "a = 1")]
    assert {one["teacher"] for one in records} == {"teacher.jsonl"}
    assert "1 programs of" in (said := capsys.readouterr().out) and "2 of 3 tasks" in said


def test_lines_with_ids_of_their_own_are_known_by_their_question(tmp_path):
    flags = write_programs(tmp_path, {"id": "row-0", "question": TASKS[0]["question"], "program": "a = 0"},
                           {"id": "t0", "question": TASKS[0]["question"], "program": "a = 1"}, {"id": "t0", "program": "a = 2"})
    records = run(tmp_path, *flags, "--num-samples", 5)
    assert [(one["id"], one["program"]) for one in records] == [("t0", "a = 0"), ("t0", "a = 1"), ("t0", "a = 2")]


def test_files_and_flags_that_make_no_sense(tmp_path):
    cases = [(write_programs(tmp_path, {"program": "x"}), ':1: no "id" and no "question"'),
             (("--teacher-file", tmp_path / "gone"), "there is no such file"),
             (("--teacher-url", "localhost:8000"), "must be like http"),
             (("--teacher-url", "file:///etc/passwd", "--teacher-model", "x"), "must be like http"),
             (("--teacher-url", f"http://me:{KEY}@localhost", "--teacher-model", "x"), "without name and password"),
             (("--teacher-url", "http://[::1", "--teacher-model", "x"), "Invalid IPv6"),
             (("--teacher-url", "http://localhost:8000"), "needs --teacher-model"),
             (("--teacher-url", "http://localhost:8000", "--teacher-file", "x"), "choose one"),
             (("--teacher-url", "http://localhost", "--teacher-model", "x", "--teacher-limit", 0), "at least 1")]
    for flags, said in cases:
        with pytest.raises(SystemExit, match=said) as error:
            run(tmp_path, *flags)
        assert len(str(error.value).splitlines()) == 1 and KEY not in str(error.value)
    flags = write_programs(tmp_path, {"id": "elsewhere", "program": "x"})
    with pytest.raises(SystemExit, match="no program for any of the 3 tasks"):
        run(tmp_path, *flags)
    assert not (tmp_path / "out.jsonl").exists()
