"""Parts of a network with learning rates of their own, and parts that do not learn for some steps."""

import pytest
import torch
from torch import nn

from engine import groups


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        body = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
        self.__S__ = nn.ModuleDict({"body": body, "out": nn.Linear(4, 2)})
        self.__S__.register_parameter("token", nn.Parameter(torch.ones(2)))
        self.__L__ = nn.Linear(2, 2)


def learning(net):
    return {name for name, p in net.named_parameters() if p.requires_grad}


def test_factors_apply_to_the_longest_name_and_cover_every_parameter_once():
    net = Net()
    found = groups.parameter_groups(net, "body=0.5,body.0=0.1,loss=2", 0.01)
    assert sorted(round(group["lr"], 6) for group in found) == [0.001, 0.005, 0.01, 0.02]
    ids = [id(p) for group in found for p in group["params"]]
    assert sorted(ids) == sorted(id(p) for p in net.parameters())
    first = next(group for group in found if group["lr"] == pytest.approx(0.001))["params"]
    assert first[0] is net.__S__["body"][0].weight and len(first) == 2
    assert groups.parameter_groups(net, "", 0.01) == list(net.parameters())


@pytest.mark.parametrize(
    "text,words",
    [("bodi=0.5", "no parameter is called bodi.*nearest: body"), ("body", "needs a factor"), ("body=x", "no PART=NUMB"),
     ("body=1,body=2", "named twice"), ("body=-1", "no PART=NUMBER"), ("bod=1", "no parameter")],
)  # fmt: skip
def test_wrong_parts_are_named(text, words):
    with pytest.raises(ValueError, match=words):
        groups.parameter_groups(Net(), text, 0.01)


def test_a_frozen_part_has_no_gradient_and_stays_in_evaluation_mode_until_its_step():
    net = Net().train()
    everything = learning(net)
    parts = groups.find_parts(net, groups.parse_parts("body=5,token,body.0", "--freeze"), "--freeze")
    freezer = groups.Freezer(net, parts)
    assert freezer.set_step(0) and not freezer.set_step(1)
    assert learning(net) == {"__S__.out.weight", "__S__.out.bias", "__L__.weight", "__L__.bias"}
    body = net.__S__["body"]
    assert not any(m.training for m in body.modules()) and net.__S__["out"].training
    net.train()  # what an epoch and an evaluation do
    assert not freezer.set_step(4) and not body.training and not body[2].training
    net.eval()
    freezer.set_step(4)
    assert not net.training, "in evaluation nothing is switched to training"
    net.train()
    assert freezer.set_step(5)
    assert learning(net) == everything - {"__S__.token", "__S__.body.0.weight", "__S__.body.0.bias"}
    assert body[1].training and body[2].training and not body[0].training
    assert "body for 5 steps" in freezer.describe() and "token always" in freezer.describe()
    again = groups.Freezer(Net().train(), parts)
    again.set_step(5)
    assert learning(again.module) == learning(net), "what is frozen follows from the step alone"
