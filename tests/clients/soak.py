#!/usr/bin/env python3
"""A server under eight streams for a long time, whose clients go away whenever they like.

    soak.py MOEWE MINUTES

Memory has to stay flat, nothing may be left of those who went, a request has to take as long at the end as at the
beginning, and the first question has to have its first answer. Needs nothing but Python.
"""
import http.client
import json
import random
import statistics
import subprocess
import sys
import threading
import time

STREAMS = 8
QUESTION = {"prompt": "Im Hafen von Kiel", "max_tokens": 24, "temperature": 1, "seed": 3, "logprobs": 2}
WORDS = "Möwe Hafen Wind Wasser Nebel Schiff Kapitän 🌊 Morgen Fisch Küste Sand".split()


class Server:
    def __init__(self, program):
        flags = ["serve", "--port", "0", "--exact", "--parallel", str(STREAMS), "--chat-template", "chatml"]
        self.process = subprocess.Popen([program, *flags], stderr=subprocess.PIPE, text=True)
        first = self.process.stderr.readline()
        assert first.startswith("listening on http://"), first
        self.address = first.strip().removeprefix("listening on http://")
        self.said = []
        threading.Thread(target=lambda: self.said.extend(self.process.stderr), daemon=True).start()
        while self.ask("GET", "/health")[0] != 200:
            time.sleep(0.05)
        time.sleep(0.5)
        self.loaded = len(self.said)

    def ask(self, method, path, body=None):
        connection = http.client.HTTPConnection(self.address, timeout=120)
        try:
            connection.request(method, path, body and json.dumps(body), {"content-type": "application/json"})
            reply = connection.getresponse()
            return reply.status, reply.read()
        finally:
            connection.close()

    def metric(self, name):
        lines = self.ask("GET", "/metrics")[1].decode().splitlines()
        return next((float(line.split()[1]) for line in lines if line.split()[0] == name), 0.0)

    def answer(self):
        start = time.monotonic()
        status, body = self.ask("POST", "/v1/completions", QUESTION)
        assert status == 200, body
        return json.loads(body)["choices"], time.monotonic() - start


def client(server, seed, until, counts):
    """Asks this and that until the time is up; leaves a third of its streams in the middle."""
    chance = random.Random(seed)
    while time.monotonic() < until:
        text = " ".join(chance.choices(WORDS, k=chance.randrange(1, 120)))
        body = {"max_tokens": chance.randrange(1, 60), "stream": chance.random() < 0.7, "seed": chance.randrange(99)}
        body["cache_prompt"] = chance.random() < 0.8
        chats = chance.random() < 0.5
        path = "/v1/chat/completions" if chats else "/v1/completions"
        body |= {"messages": [{"role": "user", "content": text}]} if chats else {"prompt": text}
        connection = http.client.HTTPConnection(server.address, timeout=300)
        try:
            connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
            if chance.random() < 1 / 6:
                counts["gone unheard"] += 1
                continue
            reply = connection.getresponse()
            assert reply.status == 200, reply.read()
            if body["stream"] and chance.random() < 1 / 3:
                reply.read(chance.randrange(1, 2000))
                counts["gone in between"] += 1
                continue
            whole = reply.read().decode()
            if body["stream"]:
                assert whole.endswith("data: [DONE]\n\n") and '"error"' not in whole, whole[-300:]
            else:
                assert json.loads(whole)["choices"][0]["finish_reason"] in ("stop", "length")
            counts["answered"] += 1
        except Exception as error:
            counts["wrong"] += 1
            print("wrong:", repr(error)[:300], flush=True)
        finally:
            connection.close()


def rest(server):
    """Waits until nobody is served, and says what is held then."""
    start = time.monotonic()
    while server.metric("moewe_requests_processing") + server.metric("moewe_requests_deferred") > 0:
        assert time.monotonic() - start < 60, "somebody is served for ever"
        time.sleep(0.1)
    times = [server.answer()[1] for _ in range(7)]
    return server.metric("moewe_resident_bytes"), statistics.median(times)


def main():
    program, minutes = sys.argv[1], float(sys.argv[2])
    server = Server(program)
    try:
        first, _ = server.answer()
        counts = {"answered": 0, "gone in between": 0, "gone unheard": 0, "wrong": 0}
        end = time.monotonic() + 60 * minutes
        marks, seed = [], 0
        while time.monotonic() < end or len(marks) < 3:
            until = time.monotonic() + 60 * minutes / 12
            threads = [
                threading.Thread(target=client, args=(server, (seed := seed + 1), until, counts))
                for _ in range(STREAMS)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            marks.append(rest(server))
            held, took = marks[-1]
            print(f"{counts} resident {held / 2**20:.1f} MiB, {1e3 * took:.0f} ms an answer", flush=True)
        last, _ = server.answer()
        # The first twelfth warms up: caches fill.
        growth = (marks[-1][0] - marks[1][0]) / 2**20
        slower = marks[-1][1] / min(took for _, took in marks[:3])
        connections = server.metric("moewe_open_connections")
        print(f"grown by {growth:.1f} MiB, {slower:.2f} times the time, {connections:.0f} connections")
        assert last == first, "another answer than at the beginning"
        assert counts["wrong"] == 0 and counts["answered"] > 0, counts
        assert growth < 4, "memory grows"
        assert slower < 1.5, "requests take longer"
        assert connections <= 2, "connections are left"
        assert server.process.poll() is None and not server.said[server.loaded :], server.said
    finally:
        server.process.terminate()
        server.process.wait(20)


main()
