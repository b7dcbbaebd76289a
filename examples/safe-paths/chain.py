"""The three small services of this example: `python chain.py web | gateway-service | vector-search`.

None of them knows of certificates, identities or proxies. The web front end passes a question on; the gateway service
looks for passages that fit and asks the model; the vector search ranks three passages by the words that they share.
"""

import http.server
import json
import os
import sys
import urllib.error
import urllib.request

PASSAGES = (
    "A headrace is the channel that brings water to a turbine.",
    "A gate is shut before a sick turbine, and the water goes to the others.",
    "What nobody can use is spilled over the weir.",
)


def call(url: str, body: dict) -> dict:
    """POST JSON and read JSON; a refusal becomes a RuntimeError that says who refused."""
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            return json.load(answer)
    except urllib.error.HTTPError as error:
        raise RuntimeError(f"{url} answered {error.code}: {error.read(200).decode(errors='replace')}") from None


def web(question: str) -> dict:
    return call("http://gateway-service/ask", {"question": question})


def gateway_service(question: str) -> dict:
    passage = call("http://vector-search/", {"question": question})["passage"]
    messages = [{"role": "system", "content": passage}, {"role": "user", "content": question}]
    answer = call("http://model/v1/chat/completions", {"model": "chat-model", "messages": messages, "max_tokens": 8})
    return {"passage": passage, "answer": answer["choices"][0]["message"]["content"]}


def vector_search(question: str) -> dict:
    words = set(question.lower().split())
    return {"passage": max(PASSAGES, key=lambda passage: len(words & set(passage.lower().split())))}


ROLES = {"web": web, "gateway-service": gateway_service, "vector-search": vector_search}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.answer(200, {"ok": True})

    def do_POST(self) -> None:
        body = self.rfile.read(min(int(self.headers.get("content-length", 0)), 1 << 16))
        try:
            question = str(json.loads(body or b"{}").get("question", ""))
            self.answer(200, ROLES[sys.argv[1]](question))
        except (RuntimeError, OSError, ValueError, AttributeError, KeyError) as error:
            self.answer(502, {"error": f"{sys.argv[1]}: {error}"})

    def answer(self, status: int, data: dict) -> None:
        body = json.dumps(data).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


if __name__ == "__main__":
    address = (os.environ.get("HOST", "127.0.0.1"), int(os.environ["PORT"]))
    http.server.ThreadingHTTPServer(address, Handler).serve_forever()
