"""Classic mistakes in problem set 6: each must lose exactly its own exercise's points."""

MID_P = """def mid_p(A, B):
    values = []
    for a, b in zip(A, B):
        only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
        d, k = only_a + only_b, min(only_a, only_b)
        heads = 2 * sum(math.comb(d, i) for i in range(k)) + math.comb(d, k)
        values.append(heads / 2**d)
    return np.array(values)
"""

RESAMPLE = """def resample(A, B, samples, rng):
    d = A.astype(float) - B
    seeds, faces = d.shape
    out = np.empty(samples)
    for i in range(samples):
        rows = rng.integers(0, seeds, seeds)
        columns = rng.integers(0, faces, faces)
        out[i] = d[np.ix_(rows, columns)].mean()
    return out
"""

UNITS = """def by_seed(A, B):
    d = A.mean(1) - B.mean(1)
    half = T975[len(d) - 1] * d.std(ddof=1) / math.sqrt(len(d))
    return d.mean(), d.mean() - half, d.mean() + half


MY_LOW = by_seed(A, B)[1]
"""

BOUND = """def faces_for(A, B, bound):
    q = (A != B).mean()
    return math.ceil(q * ((Z975 + Z80) / bound) ** 2)


MY_FACES = faces_for(A, B, 0.01)
"""

TRIAL = """def trial(A, B, luck, worth):
    d = A.mean(0) - B.mean(0)
    faces, seeds = d.var() / len(d), 2 * luck**2 / len(A)
    error = math.sqrt(faces + seeds)
    low, high = d.mean() - Z975 * error, d.mean() + Z975 * error
    if low > 0:
        verdict = "trifling" if high < worth else "supported"
    else:
        verdict = "refuted" if high < worth else "open"
    share = seeds / (faces + seeds)
    return {"difference": d.mean(), "low": low, "high": high, "seed_share": share, "verdict": verdict}


CLAIM = "both over none"
MINE = trial(*hits_on_trial(CLAIM), LUCK, WORTH)
"""


def swap(source, *pairs):
    """`source` with each old piece, which must be there once, replaced by the new one."""
    for old, new in pairs:
        assert source.count(old) == 1, old
        source = source.replace(old, new)
    return source


MISTAKES = {
    "mid_p": {
        "the exact test": swap(MID_P, ("+ math.comb(d, k)", "+ 2 * math.comb(d, k)")),
        "one tail": swap(MID_P, ("heads / 2**d", "heads / 2 / 2**d")),
        "the split itself is left out": swap(MID_P, (" + math.comb(d, k)", "")),
        "the tail of A's count, whichever is smaller": swap(MID_P, ("min(only_a, only_b)", "only_a")),
        "agreements are tossed, too": swap(MID_P, ("only_a + only_b, min", "len(a), min")),
        "all seeds in one test": swap(
            MID_P, ("    for a, b in zip(A, B):\n", "    for a, b in [(A.ravel(), B.ravel())] * len(A):\n")
        ),
    },
    "resample": {
        "the seeds stay": swap(RESAMPLE, ("rng.integers(0, seeds, seeds)", "np.arange(seeds)")),
        "the faces stay": swap(RESAMPLE, ("rng.integers(0, faces, faces)", "np.arange(faces)")),
        "each arm draws its own faces": """def resample(A, B, samples, rng):
    seeds, faces = A.shape
    out = np.empty(samples)
    for i in range(samples):
        rows = rng.integers(0, seeds, seeds)
        one, two = rng.integers(0, faces, (2, faces))
        out[i] = A[np.ix_(rows, one)].mean() - B[np.ix_(rows, two)].mean()
    return out
""",
        "each seed draws its own faces": swap(
            RESAMPLE,
            ("columns = rng.integers(0, faces, faces)", "columns = rng.integers(0, faces, (seeds, faces))"),
            ("d[np.ix_(rows, columns)].mean()", "d[rows[:, None], columns].mean()"),
        ),
        "without replacement": swap(
            RESAMPLE,
            ("rng.integers(0, seeds, seeds)", "rng.permutation(seeds)"),
            ("rng.integers(0, faces, faces)", "rng.permutation(faces)"),
        ),
        "B minus A": swap(RESAMPLE, ("A.astype(float) - B", "B.astype(float) - A")),
    },
    "units": {
        "the normal quantile": swap(UNITS, ("T975[len(d) - 1]", "1.959964")),
        "divided by S": swap(UNITS, ("ddof=1", "ddof=0")),
        "one degree of freedom too many": swap(UNITS, ("T975[len(d) - 1]", "T975[min(9, len(d))]")),
        "the spread of one run": swap(UNITS, (" / math.sqrt(len(d))", "")),
        "the arms' spreads, unpaired": swap(
            UNITS, ("d.std(ddof=1)", "math.hypot(A.mean(1).std(ddof=1), B.mean(1).std(ddof=1))")
        ),
        "a classmate's number": swap(UNITS, ("MY_LOW = by_seed(A, B)[1]", "MY_LOW = 0.00137")),
    },
    "bound": {
        "a chance of one half is enough": swap(BOUND, ("Z975 + Z80", "Z975")),
        "rounded down": swap(BOUND, ("math.ceil(", "math.floor(")),
        "two independent tests": swap(BOUND, ("math.ceil(q", "math.ceil(2 * q")),
        "a face counts where any run disagrees": swap(BOUND, ("(A != B).mean()", "(A != B).any(0).mean()")),
        "the quantiles' squares are added": swap(
            BOUND, ("((Z975 + Z80) / bound) ** 2", "(Z975**2 + Z80**2) / bound**2")
        ),
        "a classmate's number": swap(BOUND, ("MY_FACES = faces_for(A, B, 0.01)", "MY_FACES = 12345")),
        "the bound of two points": swap(
            BOUND, ("MY_FACES = faces_for(A, B, 0.01)", "MY_FACES = faces_for(A, B, 0.02)")
        ),
    },
    "trial": {
        "the luck is forgotten": swap(TRIAL, ("math.sqrt(faces + seeds)", "math.sqrt(faces)")),
        "each mean has the luck of one run": swap(TRIAL, ("2 * luck**2 / len(A)", "2 * luck**2")),
        "one of the two means has no luck": swap(TRIAL, ("2 * luck**2", "luck**2")),
        "errors are added": swap(TRIAL, ("math.sqrt(faces + seeds)", "math.sqrt(faces) + math.sqrt(seeds)")),
        "what cannot be seen is refuted": swap(
            TRIAL,
            ('"refuted" if high < worth else "open"', '"refuted"'),
        ),
        "a positive difference is support": swap(TRIAL, ("    if low > 0:\n", "    if d.mean() > 0:\n")),
        "the arms are exchanged": swap(TRIAL, ("A.mean(0) - B.mean(0)", "B.mean(0) - A.mean(0)")),
        "all faces in place of one's half": swap(
            TRIAL,
            (
                "trial(*hits_on_trial(CLAIM), LUCK, WORTH)",
                'trial(*(ablate.arm_hits(record, "attention", arm) for arm in ("both", "none")), LUCK, WORTH)',
            ),
        ),
        "no claim was chosen": swap(
            TRIAL,
            ('CLAIM = "both over none"\n', 'CLAIM = ""\n'),
            ("MINE = trial(*hits_on_trial(CLAIM), LUCK, WORTH)", "MINE = None"),
        ),
    },
}
LOSES = {
    "units": {"a classmate's number": 1},
    "bound": {"a classmate's number": 1, "the bound of two points": 1},
    "trial": {"all faces in place of one's half": 1, "no claim was chosen": 1},
}
