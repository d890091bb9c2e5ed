"""One message of every type, and the JSON that it is on the wire."""

from __future__ import annotations

import inspect

from protocol import fusing, parts
from protocol import messages as m
from protocol.bounds import Frozen

SETTLED = parts.SettledModel(
    model="linear", digest="a" * 64, preprocessing="{}", temperature=0.5, mean=-2, scale=4
)
SETTLED_JSON = (
    f'{{"model":"linear","digest":"{"a" * 64}","preprocessing":"{{}}",'
    '"temperature":0.5,"mean":-2.0,"scale":4.0}'
)
STAIN = parts.Upstream(name="stain", kind="tabular_classification", outputs=3, direct=False, whole="dyes")
STAIN_JSON = (
    '{"name":"stain","kind":"tabular_classification","outputs":3,"after":[],"direct":false,"whole":"dyes","beside":[],'
    '"settled":null}'
)
ORGAN = parts.Upstream(name="organ", kind="tabular_regression", outputs=1, after=("stain",), settled=SETTLED)
ORGAN_JSON = (
    '{"name":"organ","kind":"tabular_regression","outputs":1,"after":["stain"],"direct":true,"whole":null,"beside":[],'
    f'"settled":{SETTLED_JSON}}}'
)
SUBTASK = m.Subtask(
    name="tumour",
    data="cells",
    kind="tabular_classification",
    labels=("benign", "malignant"),
    outputs=2,
    metric="log_loss",
    exchange="weights",
    seed=7,
    train=m.TrainSpec(local_steps=100, proximal_mu=0.5),
    wire=m.Wire(form="topk", top_k=2),
    asks=("accuracy",),
    selective=0.25,
    personal=m.Personal(rule="fedrep"),
    prototypes=m.PrototypeSpec(dim=16),
    part=parts.PartOf(whole="cells", labels=("b", "m", "?"), classes=(0, 1, None)),
    family="signs",
    public_digest="0" * 64,
    preprocessing="{}",
    upstream=(STAIN, ORGAN),
)
SUBTASK_JSON = (
    '{"name":"tumour","data":"cells","kind":"tabular_classification","labels":["benign","malignant"],"outputs":2,'
    '"metric":"log_loss","exchange":"weights","seed":7,'
    '"train":{"objective":"supervised","optimizer":"sgd","lr":0.05,"momentum":0.0,"weight_decay":0.0,'
    '"batch_size":32,"local_epochs":1,"local_steps":100,"proximal_mu":0.5},'
    '"digest":{"loss":"kl","epochs":0,"lr":0.001,"batch_size":64,"temperature":1.0},'
    '"wire":{"form":"topk","top_k":2},"asks":["accuracy"],"selective":0.25,'
    '"personal":{"rule":"fedrep","head_epochs":1,"strength":0.1},"prototypes":{"dim":16,"strength":1.0},'
    '"part":{"whole":"cells","labels":["b","m","?"],"classes":[0,1,null],"columns":[],"image":false},'
    '"family":"signs",'
    f'"public_digest":"{"0" * 64}","preprocessing":"{{}}",'
    f'"upstream":[{STAIN_JSON},{ORGAN_JSON}]}}'
)

JOINT = m.Joint(subtasks=(SUBTASK,), importances=(2,), every=5, budget=0.5)
JOINT_JSON = f'{{"subtasks":[{SUBTASK_JSON}],"importances":[2.0],"every":5,"budget":0.5}}'

CASES: tuple[tuple[Frozen, str], ...] = (
    (SUBTASK, SUBTASK_JSON),
    (SETTLED, SETTLED_JSON),
    (ORGAN, ORGAN_JSON),
    (
        m.TrainSpec(optimizer="adam", lr=1, momentum=0.9),
        (
            '{"objective":"supervised","optimizer":"adam","lr":1.0,"momentum":0.9,"weight_decay":0.0,'
            '"batch_size":32,"local_epochs":1,"local_steps":null,"proximal_mu":0.0}'
        ),
    ),
    (
        m.DigestSpec(loss="mae_logits", temperature=3),
        '{"loss":"mae_logits","epochs":0,"lr":0.001,"batch_size":64,"temperature":3.0}',
    ),
    (
        fusing.BallotPaper(
            run="r", subtask="tumour", site="north", order=("south", "east"), approved=("south",)
        ),
        (
            '{"run":"r","subtask":"tumour","site":"north","order":["south","east"],"approved":["south"],'
            '"examples_processed":0}'
        ),
    ),
    (m.Wire(form="int8_delta"), '{"form":"int8_delta","top_k":3}'),
    (m.Personal(rule="ditto", strength=2), '{"rule":"ditto","head_epochs":1,"strength":2.0}'),
    (m.PrototypeSpec(dim=8, strength=0.5), '{"dim":8,"strength":0.5}'),
    (
        m.Capability(
            site="north",
            memory_mib=4096,
            gpu=True,
            gpu_memory_mib=2048,
            examples_per_s=1500.5,
            bandwidth_mbit=200,
            subtasks={"tumour": 340},
        ),
        (
            '{"site":"north","memory_mib":4096.0,"gpu":true,"gpu_memory_mib":2048.0,"examples_per_s":1500.5,'
            '"bandwidth_mbit":200.0,"price":1.0,"shares_models":true,"subtasks":{"tumour":340}}'
        ),
    ),
    (
        m.SubtaskQuery(subtask=SUBTASK, models=("linear",)),
        f'{{"subtask":{SUBTASK_JSON},"models":["linear"]}}',
    ),
    (
        m.DataSummary(
            site="north",
            subtask="tumour",
            statistics="{}",
            class_counts=(3, 4.5),
            train=7,
            validation=1,
            test=2,
        ),
        (
            '{"site":"north","subtask":"tumour","statistics":"{}","class_counts":[3.0,4.5],'
            '"train":7,"validation":1,"test":2}'
        ),
    ),
    (
        m.Trial(site="north", subtask="tumour", num_examples=20, loss_sums={"linear": 1.25}),
        '{"site":"north","subtask":"tumour","num_examples":20,"loss_sums":{"linear":1.25}}',
    ),
    (
        m.Assignment(
            run="r1", round=3, budget=4, subtask=SUBTASK, site="north", attempt=2, model="linear", joint=JOINT
        ),
        (
            f'{{"run":"r1","round":3,"budget":4,"subtask":{SUBTASK_JSON},"site":"north","attempt":2,'
            f'"model":"linear","joint":{JOINT_JSON}}}'
        ),
    ),
    (JOINT, JOINT_JSON),
    (
        m.Contribution(
            run="r1",
            round=3,
            subtask="tumour",
            site="north",
            attempt=2,
            model="linear",
            exchange="soft_labels",
            num_examples=340,
            examples_processed=680,
            steps=22,
            looked=40,
            accuracy=0.75,
            class_counts=(1, 0),
            public_digest="0" * 64,
            computed_on="c" * 16,
            digest="f" * 64,
        ),
        (
            '{"run":"r1","round":3,"subtask":"tumour","site":"north","attempt":2,"model":"linear",'
            '"exchange":"soft_labels","num_examples":340,"examples_processed":680,"steps":22,"looked":40,'
            '"accuracy":0.75,"class_counts":[1.0,0.0],'
            f'"public_digest":"{"0" * 64}","computed_on":"{"c" * 16}","digest":"{"f" * 64}"}}'
        ),
    ),
    (
        m.EvaluationRequest(
            run="r1", round=3, subtask=SUBTASK, site="north", model="linear", class_counts=(5, 6)
        ),
        (
            f'{{"run":"r1","round":3,"subtask":{SUBTASK_JSON},"site":"north","model":"linear",'
            '"rows":"validation","class_counts":[5.0,6.0]}'
        ),
    ),
    (
        m.Evaluation(run="r1", round=3, subtask="tumour", site="north", num_examples=50),
        '{"run":"r1","round":3,"subtask":"tumour","site":"north","num_examples":50,"examples_processed":0}',
    ),
    (
        fusing.Candidate(name="final", model="linear", temperature=1.5),
        '{"name":"final","model":"linear","temperature":1.5}',
    ),
    (
        fusing.FusionRequest(
            run="r1",
            subtask=SUBTASK,
            site="north",
            rule="mean",
            rows="test",
            step=2,
            candidates=(fusing.Candidate(name="final", model="linear"),),
        ),
        (
            f'{{"run":"r1","subtask":{SUBTASK_JSON},"site":"north","rule":"mean","rows":"test",'
            '"step":2,"candidates":[{"name":"final","model":"linear","temperature":1.0}],"class_counts":[]}'
        ),
    ),
    (
        parts.PartOf(whole="w", labels=("a", "b"), classes=(None, 0)),
        '{"whole":"w","labels":["a","b"],"classes":[null,0],"columns":[],"image":false}',
    ),
    (
        parts.PartOf(whole="w", labels=("a",), classes=(0,), columns=("chol", "lab_*")),
        '{"whole":"w","labels":["a"],"classes":[0],"columns":["chol","lab_*"],"image":false}',
    ),
    (
        fusing.WholePart(name="gate", subtask=SUBTASK, model="linear", temperature=0.5),
        f'{{"name":"gate","subtask":{SUBTASK_JSON},"model":"linear","temperature":0.5}}',
    ),
    (
        fusing.WholeRequest(
            run="r1",
            whole="cells",
            site="north",
            groups={"good": ("b",), "bad": ("m", "?")},
            outside="none",
            fusion="hard_gate",
            parts=(fusing.WholePart(name="gate", subtask=SUBTASK, model="linear"),),
        ),
        (
            '{"run":"r1","whole":"cells","site":"north","groups":{"good":["b"],"bad":["m","?"]},'
            '"outside":"none","refuses":"experts","fusion":"hard_gate","rows":"test","parts":[{"name":"gate",'
            f'"subtask":{SUBTASK_JSON},"model":"linear","temperature":1.0}}]}}'
        ),
    ),
    (
        fusing.WholeRequest(
            run="r1",
            whole="cells",
            site="north",
            fusion="product",
            parts=(fusing.WholePart(name="scan", subtask=SUBTASK, model="linear"),),
        ),
        (
            '{"run":"r1","whole":"cells","site":"north","groups":{},"outside":null,"refuses":"experts","fusion":"product","rows":"test",'
            f'"parts":[{{"name":"scan","subtask":{SUBTASK_JSON},"model":"linear","temperature":1.0}}]}}'
        ),
    ),
    (
        m.LocalModel(site="north", subtask="tumour", model="linear", temperature=0.5),
        '{"site":"north","subtask":"tumour","model":"linear","temperature":0.5}',
    ),
    (m.Refusal(code="data", detail="no rows"), '{"code":"data","detail":"no rows"}'),
)

TYPES = [
    item
    for module in (m, parts, fusing)
    for item in vars(module).values()
    if inspect.isclass(item) and issubclass(item, Frozen) and item.__module__ == module.__name__
]
