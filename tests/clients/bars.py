"""How fast the server is, in ratios: bars.py MOEWE MODEL [--peer LLAMA_SERVER] [--bars S1,S3]

Servers take turns on the same machine; each figure is the best of three. Streams are greedy and go past the end
token. MODEL may be `-` for the model in the program.
"""

import argparse
import http.client
import json
import os
import random
import subprocess
import sys
import threading
import time

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("moewe")
parser.add_argument("model")
parser.add_argument("--peer", help="llama-server")
parser.add_argument("--bars", default="S1,S3,S4,S5,S6,S7,S8,S9,S10")
parser.add_argument("--turns", type=int, default=3)
parser.add_argument("--tokens", type=int, default=64)
parser.add_argument("--context", type=int, default=4096)
options = parser.parse_args()
model = [] if options.model == "-" else [options.model]
numbers = random.Random(7)


class Server:
    def __init__(self, command, port):
        self.port = port
        self.start = time.monotonic()
        self.child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while True:
            try:
                if self.get("/health").status == 200:
                    break
            except OSError:
                pass
            if self.child.poll() is not None:
                sys.exit(f"{command} has ended")
            time.sleep(0.005)
        self.ready = time.monotonic() - self.start

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.child.terminate()
        self.child.wait()

    def connect(self):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)

    def get(self, path):
        connection = self.connect()
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.text = answer.read().decode()
        connection.close()
        return answer

    def ask(self, prompt, tokens, arrivals=None, **fields):
        """Asks for a stream; the times of its texts after the request, and the last event's timings."""
        body = {"prompt": prompt, "max_tokens": tokens, "temperature": 0, "stream": True, "ignore_eos": True,
                "stream_options": {"include_usage": True}, **fields}
        connection = self.connect()
        connection.connect()
        times = arrivals if arrivals is not None else []
        begin = time.monotonic()
        connection.request("POST", "/v1/completions", json.dumps(body), {"content-type": "application/json"})
        answer, last = connection.getresponse(), {}
        assert answer.status == 200, answer.read()
        for line in answer:
            if line.startswith(b"data: {"):
                event = json.loads(line[6:])
                if event["choices"] and event["choices"][0]["text"]:
                    times.append(time.monotonic())
                last = event
        connection.close()
        return begin, times, last

    def together(self, prompts, tokens, **fields):
        """Tokens per second of all streams, while all of them are answered."""
        arrivals = [[] for _ in prompts]
        threads = [threading.Thread(target=self.ask, args=(prompt, tokens, times), kwargs=fields)
                   for prompt, times in zip(prompts, arrivals)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        begin, end = max(times[0] for times in arrivals), min(times[-1] for times in arrivals)
        within = sum(1 for times in arrivals for at in times if begin < at <= end)
        return within / (end - begin)

    def resident(self):
        with open(f"/proc/{self.child.pid}/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) / 1024

    def files(self):
        return len(os.listdir(f"/proc/{self.child.pid}/fd"))


def moewe(*flags, parallel=8):
    command = [options.moewe, "serve", *(model or ["--base"]), "--port", "8701", "-c", str(options.context), "-q",
               "--parallel", str(parallel), *flags]
    return Server(command, 8701)


def peer(parallel=8):
    command = [options.peer, "-m", options.model, "--port", "8702", "-c", str(options.context * parallel), "-t", "2",
               "-tb", "2", "-np", str(parallel)]
    return Server(command, 8702)


def prompt(length):
    return [numbers.randrange(300, 8000) for _ in range(length)]


def bench(*flags):
    said = subprocess.run([options.moewe, "bench", *model, "--json", *flags], capture_output=True, text=True, check=True)
    return json.loads(said.stdout)


def say(bar, text):
    print(f"{bar:4} {text}", flush=True)


def s1():
    """All streams together against one, and against the peer."""
    best = {}
    for _ in range(options.turns):
        servers = [("moewe", moewe)] + ([("peer", peer)] if options.peer else [])
        for name, start in servers:
            with start() as server:
                for streams in (1, 2, 4, 8):
                    rate = server.together([prompt(128) for _ in range(streams)], options.tokens)
                    best[name, streams] = max(best.get((name, streams), 0), rate)
    for (name, streams), rate in best.items():
        say("S1", f"{name} {streams} streams: {rate:.1f} tokens/s, {rate / best[name, 1]:.2f} of one")
    if options.peer:
        for streams in (1, 8):
            ratio = best["moewe", streams] / best["peer", streams]
            say("S2", f"{streams} streams: {ratio:.2f} times the peer")


def s3():
    """One stream against the benchmark."""
    decode, prefill = [], []
    for _ in range(options.turns):
        with moewe() as server:
            _, times, _ = server.ask(prompt(128), options.tokens)
            decode.append((len(times) - 1) / (times[-1] - times[0]))
            begin, times, _ = server.ask(prompt(512), 1)
            prefill.append(512 / (times[0] - begin))
        figures = bench("-p", "512", "-n", str(options.tokens), "-c", "1024")
        say("S3", f"decode {decode[-1]:.1f} of {figures['decode_tokens_per_second']:.1f}, "
                  f"prefill {prefill[-1]:.1f} of {figures['prefill_tokens_per_second']:.1f}")


def s4():
    """A long prompt arrives while four are answered."""
    for name, start in [("moewe", moewe)] + ([("peer", peer)] if options.peer else []):
        with start() as server:
            begin, times, _ = server.ask(prompt(2048), 1)
            alone = times[0] - begin
            arrivals = [[] for _ in range(4)]
            threads = [threading.Thread(target=server.ask, args=(prompt(32), 400, times)) for times in arrivals]
            for thread in threads:
                thread.start()
            while min(map(len, arrivals)) < 30:
                time.sleep(0.05)
            before = sum(len(times) - 1 for times in arrivals) / (time.monotonic() - max(times[0] for times in arrivals))
            begin, times, _ = server.ask(prompt(2048), 1)
            end = times[0]
            inside = [[at for at in times if begin <= at <= end] for times in arrivals]
            gap = max(b - a for times in inside for a, b in zip([begin, *times], [*times, end]))
            during = sum(map(len, inside)) / (end - begin)
            say("S4", f"{name}: first token after {(end - begin) / alone:.2f} of alone ({alone:.1f} s), longest gap "
                      f"{gap:.2f} s, rate {during / before:.2f} of before")
            server.child.kill()
            for thread in threads:
                thread.join(1)


def s5():
    """What is known is not computed."""
    with moewe() as server:
        ratios = []
        for _ in range(options.turns):
            history, question = prompt(2048), prompt(64)
            server.ask(history, 1)
            begin, times, _ = server.ask(history + question, 1)
            warm = times[0] - begin
            begin, times, _ = server.ask(prompt(64), 2)
            ratios.append(warm / (times[-1] - begin))
        say("S5", f"second turn: {min(ratios):.2f} of its new tokens and one more")
        common, own = prompt(1024), 32
        prompts, tallies = [common + prompt(own) for _ in range(8)], []
        threads = [threading.Thread(target=lambda it=it: tallies.append(server.ask(it, 1)[2])) for it in prompts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        computed = sum(tally["timings"]["prompt_n"] for tally in tallies)
        say("S5", f"8 with 1024 in common: {computed} computed, of at most {1024 + 8 * own + 8 * 256}")


def s6():
    """A schema of twenty fields costs nearly nothing. Its texts are long enough that no answer ends before the others."""
    fields = {f"field_{at}": {"type": "string", "minLength": 200} for at in range(20)}
    schema = {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}
    for streams in (1, 8):
        best = {}
        for _ in range(options.turns):
            with moewe() as server:
                server.ask(prompt(8), 2, json_schema=schema)  # the vocabulary is prepared once
                for name, asked in (("free", {}), ("schema", {"json_schema": schema})):
                    rate = server.together([prompt(128) for _ in range(streams)], options.tokens, **asked)
                    best[name] = max(best.get(name, 0), rate)
                text = server.get("/metrics").text
        sums = {kind: next(float(line.split()[1]) for line in text.splitlines()
                           if line.startswith(f"moewe_grammar_mask_seconds_{kind} ")) for kind in ("sum", "count")}
        say("S6", f"{streams} streams: {best['schema'] / best['free']:.3f} of {best['free']:.1f} tokens/s, "
                  f"{1e6 * sums['sum'] / max(sums['count'], 1):.0f} µs per mask")


def s7():
    """A thousand connections leave nothing behind."""
    with moewe() as server:
        for number in range(1000):
            server.ask(prompt(4), 2)
            server.get("/health")
            if number == 99:  # the cache is full of what ended
                first = server.resident(), server.files()
        say("S7", f"resident {first[0]:.1f} MiB after 100, {server.resident():.1f} after 1000; files {first[1]}, {server.files()}")


def s8():
    """Nobody asks: no work, no waking."""
    with moewe() as server:
        server.ask(prompt(64), 8)
        time.sleep(1)

        def counts():
            with open(f"/proc/{server.child.pid}/stat") as stat:
                ticks = sum(map(int, stat.read().rsplit(")", 1)[1].split()[11:13]))
            wakes = 0
            for thread in os.listdir(f"/proc/{server.child.pid}/task"):
                with open(f"/proc/{server.child.pid}/task/{thread}/status") as status:
                    wakes += sum(int(line.split()[1]) for line in status if "ctxt_switches" in line)
            return ticks / os.sysconf("SC_CLK_TCK"), wakes

        before = counts()
        time.sleep(10)
        used, wakes = (after - before for after, before in zip(counts(), before))
        say("S8", f"idle for 10 s: {used / 10:.2%} of a core, {wakes / 10:.1f} wakes a second")


def s9():
    """A hundred prompts have the same tokens and odds alone, together, and where their beginnings are known."""
    for isa in ("amx", "avx512vnni", "avxvnni", "avx2", "portable"):
        try:
            server = moewe("--exact", "--isa", isa)
        except SystemExit:
            say("S9", f"{isa}: not on this machine")
            continue
        with server:
            many = [prompt(numbers.choice([1, 7, 24, 90, 256, 300])) for _ in range(100)]
            if isa == "portable":
                many = many[:20]

            def answer(at, reuses, found):
                body = {"prompt": many[at], "max_tokens": 12, "temperature": 1, "seed": at, "logprobs": 3,
                        "cache_prompt": reuses, "ignore_eos": True}
                connection = server.connect()
                connection.request("POST", "/v1/completions", json.dumps(body), {"content-type": "application/json"})
                found[at] = json.loads(connection.getresponse().read())["choices"]
                connection.close()

            alone, together, known = {}, {}, {}
            for at in range(len(many)):
                answer(at, False, alone)
            left = list(range(len(many)))

            def work():
                while left:
                    answer(left.pop(), True, together)

            threads = [threading.Thread(target=work) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            for at in range(len(many)):
                answer(at, True, known)
            same = sum(alone[at] == together[at] == known[at] for at in range(len(many)))
            say("S9", f"{isa}: {same} of {len(many)} prompts have the same bits in all three ways")


def s10():
    """From start to ready."""
    ready = []
    for _ in range(options.turns):
        with moewe() as server:
            ready.append(server.ready)
    chat = []
    for _ in range(options.turns):
        begin = time.monotonic()
        subprocess.run([options.moewe, "chat", *model, "-q", "-c", str(options.context)], stdin=subprocess.DEVNULL,
                       capture_output=True, check=True)
        chat.append(time.monotonic() - begin)
    say("S10", f"ready after {min(ready) * 1e3:.0f} ms; a chat begins and ends in {min(chat) * 1e3:.0f} ms")


for bar in options.bars.split(","):
    globals()[bar.lower()]()
