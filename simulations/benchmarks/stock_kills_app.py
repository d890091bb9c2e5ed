"""The Flower app of ``stock_kills``: FedAvg as a user of Flower writes it, with a client that trains 2 s.

All arguments of ``flwr.serverapp.strategy.FedAvg`` and ``start`` are Flower's defaults: every connected node
trains and evaluates (fractions 1.0), at least 2 nodes must be connected, a round waits for its replies up to
3600 s. The number of rounds is given, and an ``evaluate_fn`` that writes down each round's model; what the
strategy logs goes to a file too.

Values and example counts are powers of two and small whole numbers, so that every sum is exact and the order
in which replies come changes no bit of the model.
"""

from __future__ import annotations

CONFIG = {"rounds": 4, "train-s": 2.0, "out": ""}
# One line of progress.jsonl for each round, 0 before the first, and one when all is done.
SERVER = """
import hashlib, json, logging, time
import numpy as np
from flwr.app import ArrayRecord, MetricRecord
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg

app = ServerApp()

def note(out, round_, arrays, done=False):
    digest = hashlib.sha256(b"".join(a.tobytes() for a in arrays.to_numpy_ndarrays())).hexdigest()
    with open(out + "/progress.jsonl", "a") as file:
        file.write(json.dumps({"round": round_, "at": time.time(), "model": digest, "done": done}) + "\\n")

@app.main()
def main(grid, context):
    out, rounds = context.run_config["out"], context.run_config["rounds"]
    logging.getLogger("flwr").addHandler(logging.FileHandler(out + "/strategy.log"))

    def evaluate(round_, arrays):
        note(out, round_, arrays)
        return MetricRecord({"round": round_})

    initial = ArrayRecord([np.zeros(64)])
    result = FedAvg().start(grid, initial, num_rounds=rounds, evaluate_fn=evaluate)
    note(out, rounds, result.arrays, done=True)
"""
# One line of work.jsonl when a client begins to train, and one when it has.
CLIENT = """
import json, time
import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()
EXAMPLES = (1, 1, 2)

def note(context, message, phase):
    line = {"node": context.node_config["partition-id"], "phase": phase, "at": time.time()}
    line["round"] = message.content["config"]["server-round"]
    with open(context.run_config["out"] + "/work.jsonl", "a") as file:
        file.write(json.dumps(line) + "\\n")

@app.train()
def train(message, context):
    note(context, message, "begun")
    node = context.node_config["partition-id"]
    time.sleep(context.run_config["train-s"])
    [model] = message.content["arrays"].to_numpy_ndarrays()
    model = (model + np.arange(64.0) * (node + 1)) / 2
    note(context, message, "done")
    metrics = MetricRecord({"num-examples": EXAMPLES[node], "loss": float(abs(model).sum())})
    return Message(RecordDict({"arrays": ArrayRecord([model]), "metrics": metrics}), reply_to=message)

@app.evaluate()
def evaluate(message, context):
    node = context.node_config["partition-id"]
    [model] = message.content["arrays"].to_numpy_ndarrays()
    metrics = MetricRecord({"num-examples": EXAMPLES[node], "loss": float(abs(model).sum())})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)
"""
