"""Classic mistakes in problem set 5: each must lose exactly its own exercise's points."""

ONE_BATCH = """def one_batch(net, x, y, steps, lr):
    net = copy.deepcopy(net).train()
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    optimizer = torch.optim.Adam(net.parameters(), lr=lr)
    first = F.cross_entropy(net(x), y).item()
    for _ in range(steps):
        loss = F.cross_entropy(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    last = F.cross_entropy(net(x), y).item()
    return first, last, [name for name, p in net.named_parameters() if torch.equal(p, before[name])]
"""

FINDER = """def suggest(rates, losses, beta=0.8):
    smooth, mean = [], 0.0
    for i, loss in enumerate(losses):
        mean = beta * mean + (1 - beta) * loss
        value = mean / (1 - beta ** (i + 1))
        if not math.isfinite(value) or value > 2 * min([*smooth, value]):
            break
        smooth.append(value)
    end = int(np.argmin(smooth)) + 1
    s, log_rate = np.array(smooth[:end]), np.log(rates[:end])
    slope = (s[2:] - s[:-2]) / (log_rate[2:] - log_rate[:-2])
    return float(rates[1 + slope.argmin()])


MY_RATE = suggest(rates, losses)
"""

DOCTOR = """def diagnose(history):
    loss, train, test = (np.array(history[name], dtype=float) for name in ("loss", "train", "test"))
    if not loss[0] < 3 * math.log(7):
        return "not normalized"
    if not loss.max() < 3 * math.log(7):
        return "rate too high"
    if test[-1] < 0.33 and train[-1] > test[-1] + 0.2:
        return "labels shuffled"
    return "twins" if test[-1] > train[-1] - 0.015 else "healthy"
"""

AVERAGE = """def average(net, states, batches):
    net = copy.deepcopy(net)
    with torch.no_grad():
        for name, p in net.named_parameters():
            p.copy_(torch.stack([state[name] for state in states]).mean(0))
        for module in net.modules():
            if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
                module.reset_running_stats()
                module.momentum = None
        net.train()
        for batch in batches:
            net(batch)
    return net.eval()
"""

HONEST = """def report(predicted, labels, test_images, train_images):
    known = {image.numpy().tobytes() for image in train_images}
    known |= {image.numpy().tobytes() for image in train_images.flip(3).contiguous()}
    unseen = torch.tensor([image.numpy().tobytes() not in known for image in test_images])
    right = predicted == labels

    def row(part):
        hits, n = int(right[part].sum()), int(part.sum())
        return hits, n, *evaluate.wilson_interval(hits, n)

    return {"whole": row(torch.ones_like(unseen)), "unseen": row(unseen)}


MY_LOW = report(predicted, test_labels, test_images, train_images)["unseen"][2]
"""


def swap(source, *pairs):
    """`source` with each old piece, which must be there once, replaced by the new one."""
    for old, new in pairs:
        assert source.count(old) == 1, old
        source = source.replace(old, new)
    return source


MISTAKES = {
    "one_batch": {
        "gradients pile up": swap(ONE_BATCH, ("        optimizer.zero_grad()\n", "")),
        "the caller's network is trained": swap(ONE_BATCH, ("copy.deepcopy(net).train()", "net.train()")),
        "the last loss is the one before the last step": swap(
            ONE_BATCH, ("    last = F.cross_entropy(net(x), y).item()\n", "    last = loss.item()\n")
        ),
        "whatever has no gradient stands still": swap(
            ONE_BATCH, ("if torch.equal(p, before[name])", "if p.grad is None and p.requires_grad")
        ),
        "the starting values are not copied": swap(ONE_BATCH, ("p.detach().clone()", "p.detach()")),
        "evaluation mode": swap(ONE_BATCH, (".train()", ".eval()")),
    },
    "finder": {
        "the rate of the smallest loss": swap(FINDER, ("rates[1 + slope.argmin()]", "rates[s.argmin()]")),
        "no smoothing": swap(FINDER, ("mean / (1 - beta ** (i + 1))", "loss")),
        "no cut": swap(FINDER, (" or value > 2 * min([*smooth, value])", "")),
        "a fall after a jump counts": swap(FINDER, ("int(np.argmin(smooth)) + 1", "len(smooth)")),
        "one place off": swap(FINDER, ("rates[1 + slope.argmin()]", "rates[slope.argmin()]")),
        "the slope over the rate, not over its logarithm": swap(FINDER, ("np.log(rates[:end])", "rates[:end]")),
        "a classmate's rate": swap(FINDER, ("MY_RATE = suggest(rates, losses)", "MY_RATE = 0.0123")),
    },
    "doctor": {
        "always healthy": 'def diagnose(history):\n    return "healthy"\n',
        "a high first loss is taken for a high rate": swap(
            DOCTOR, ('return "not normalized"', 'return "rate too high"')
        ),
        "a nan passes every comparison": swap(
            DOCTOR, ("if not loss.max() < 3 * math.log(7)", "if loss.max() > 3 * math.log(7)")
        ),
        "full marks in training are taken for twins": swap(
            DOCTOR, ("test[-1] > train[-1] - 0.015", "train[-1] > 0.95")
        ),
        "the first epoch in place of the last": swap(
            DOCTOR,
            ("if test[-1] < 0.33 and train[-1] > test[-1] + 0.2", "if test[0] < 0.33 and train[-1] > test[0] + 0.2"),
        ),
    },
    "average": {
        "the statistics are averaged, too": """def average(net, states, batches):
    net = copy.deepcopy(net)
    mean = {k: torch.stack([s[k].double() for s in states]).mean(0) for k in states[0]}
    net.load_state_dict({k: v.to(states[0][k].dtype) for k, v in mean.items()})
    return net.eval()
""",
        "the statistics do not start anew": swap(
            AVERAGE,
            (
                "                module.reset_running_stats()\n                module.momentum = None\n",
                "                pass\n",
            ),
        ),
        "late batches count more": swap(AVERAGE, ("                module.momentum = None\n", "")),
        "the last state only": swap(
            AVERAGE, ("torch.stack([state[name] for state in states]).mean(0)", "states[-1][name]")
        ),
        "the statistics of the old weights": """def average(net, states, batches):
    net = copy.deepcopy(net)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
                module.reset_running_stats()
                module.momentum = None
        net.train()
        for batch in batches:
            net(batch)
        for name, p in net.named_parameters():
            p.copy_(torch.stack([state[name] for state in states]).mean(0))
    return net.eval()
""",
        "the caller's network is overwritten": swap(AVERAGE, ("    net = copy.deepcopy(net)\n", "")),
        "left in training mode": swap(AVERAGE, ("return net.eval()", "return net")),
    },
    "honest": {
        "mirrored copies are missed": swap(
            HONEST,
            ("    known |= {image.numpy().tobytes() for image in train_images.flip(3).contiguous()}\n", ""),
        ),
        "upside down in place of mirrored": swap(HONEST, ("flip(3)", "flip(2)")),
        "twins by their mean": swap(
            HONEST,
            (
                """    known = {image.numpy().tobytes() for image in train_images}
    known |= {image.numpy().tobytes() for image in train_images.flip(3).contiguous()}
    unseen = torch.tensor([image.numpy().tobytes() not in known for image in test_images])
""",
                """    known = {image.double().mean().item() for image in train_images}
    unseen = torch.tensor([image.double().mean().item() not in known for image in test_images])
""",
            ),
        ),
        "the textbook interval": swap(
            HONEST,
            (
                "hits, n, *evaluate.wilson_interval(hits, n)",
                "(hits, n, *(hits / n + side * 1.96 * math.sqrt(hits / n * (1 - hits / n) / n) for side in (-1, 1)))",
            ),
        ),
        "the seen faces are reported": swap(HONEST, ('"unseen": row(unseen)', '"unseen": row(~unseen)')),
        "a classmate's number": swap(
            HONEST,
            ('MY_LOW = report(predicted, test_labels, test_images, train_images)["unseen"][2]', "MY_LOW = 0.6061"),
        ),
        "the whole test's end": swap(HONEST, ('["unseen"][2]', '["whole"][2]')),
    },
}
LOSES = {
    "finder": {"a classmate's rate": 2, "no cut": 2, "a fall after a jump counts": 2},
    "honest": {"a classmate's number": 1, "the whole test's end": 1},
}
