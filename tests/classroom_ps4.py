"""Classic mistakes in the problem set ps4_geometry: the whole answer cell, wrong in one way."""

BOUNDARY = """
def ties(W, b, length):
    normal = W[0] - W[1]
    cosine = (b[1] - b[0]) / (length * np.hypot(*normal))
    if abs(cosine) > 1:
        return np.array([])
    middle, half = np.arctan2(normal[1], normal[0]), np.arccos(cosine)
    return np.sort(np.array([middle - half, middle + half]) % (2 * np.pi))


my_shortest = abs(plane_b[1] - plane_b[0]) / np.hypot(*(plane_W[0] - plane_W[1]))
"""

VERDICTS = """
def verdicts(theta, labels, margin):
    rows = np.arange(len(theta))
    own, rivals = theta[rows, labels], theta.copy()
    rivals[rows, labels] = np.inf
    rival = rivals.min(1)
    wrong, content = own >= rival, own + margin < rival
    return int(wrong.sum()), int((~wrong & ~content).sum()), int(content.sum())


my_region = verdicts(my_theta, my_labels, 0.3)[1]
"""

WIDTH = """
def width_at(gap, margin, height):
    def lead(phi):
        one, two = angles_at(phi, height, gap)
        return two - one

    near, far = gap / 2, gap / 2 - math.pi / 2
    if lead(far) < margin:
        return math.nan
    for _ in range(60):
        middle = (near + far) / 2
        near, far = (middle, far) if lead(middle) < margin else (near, middle)
    return gap - 2 * near


my_height = math.degrees(math.acos(math.sin(0.3 / 2) / math.sin(my_gap / 2)))
"""

COMPACTNESS = """
def compactness(x, labels):
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    classes = range(labels.max() + 1)
    centers = np.stack([unit[labels == k].mean(0) for k in classes])
    centers /= np.linalg.norm(centers, axis=1, keepdims=True)
    own = np.arccos(np.clip((unit * centers[labels]).sum(1), -1, 1))
    intra = np.mean([own[labels == k].mean() for k in classes])
    cosines = centers @ centers.T
    np.fill_diagonal(cosines, -1)
    return float(np.degrees(intra)), float(np.degrees(np.arccos(cosines.max())))


my_intra, my_inter = compactness(my_x, my_labels)
my_ratio = my_inter / my_intra
"""

MOST = """
def most_classes(margin, spread, circle):
    need = margin + 2 * spread
    if need > math.pi:
        return 1
    if circle:
        return math.floor(2 * math.pi / need)
    return math.inf if need <= math.pi / 2 else math.floor(1 - 1 / math.cos(need))
"""


def changed(source: str, old: str, new: str) -> str:
    assert source.count(old) == 1, old
    return source.replace(old, new)


MISTAKES = {
    "boundary": {
        "the sign of the bias": changed(BOUNDARY, "(b[1] - b[0]) / (length", "(b[0] - b[1]) / (length"),
        "the length of the embedding is forgotten": changed(
            BOUNDARY, "(length * np.hypot(*normal))", "np.hypot(*normal)"
        ),
        "only one of the two places": changed(
            BOUNDARY, "np.sort(np.array([middle - half, middle + half]) % (2 * np.pi))", "np.array([middle + half])"
        ),
        "angles below zero": changed(BOUNDARY, " % (2 * np.pi)", ""),
        "the lengths of the weights for that of their difference": changed(
            BOUNDARY,
            "np.hypot(*(plane_W[0] - plane_W[1]))",
            "(np.hypot(*plane_W[0]) + np.hypot(*plane_W[1]))",
        ),
    },
    "verdicts": {
        "the own class among the rivals": changed(VERDICTS, "    rivals[rows, labels] = np.inf\n", ""),
        "the mean rival for the nearest": changed(
            VERDICTS,
            "rivals.min(1)",
            "np.where(np.isfinite(rivals), rivals, 0).sum(1) / (theta.shape[1] - 1)",
        ),
        "the wrong faces counted in the region": changed(VERDICTS, "(~wrong & ~content)", "(~content)"),
        "half a margin": changed(VERDICTS, "own + margin < rival", "own + margin / 2 < rival"),
        "a margin on the cosine": changed(
            VERDICTS, "own + margin < rival", "np.cos(own) - margin > np.cos(np.minimum(rival, np.pi))"
        ),
    },
    "width": {
        "the margin at every latitude": changed(
            WIDTH, "    near, far = gap / 2, gap / 2 - math.pi / 2\n", "    return margin\n    near = far = 0\n"
        ),
        "one side of the middle only": changed(WIDTH, "gap - 2 * near", "gap / 2 - near"),
        "an arc for a longitude": changed(WIDTH, "gap - 2 * near", "(gap - 2 * near) * math.cos(height)"),
        "the search stops at class 1": changed(WIDTH, "gap / 2 - math.pi / 2", "0.0"),
        "no nan near the pole": changed(WIDTH, "    if lead(far) < margin:\n        return math.nan\n", ""),
        "the height in radians": changed(
            WIDTH,
            "math.degrees(math.acos(math.sin(0.3 / 2) / math.sin(my_gap / 2)))",
            "math.acos(math.sin(0.3 / 2) / math.sin(my_gap / 2))",
        ),
        "the small angle for its sine": changed(WIDTH, "math.sin(0.3 / 2) / math.sin(my_gap / 2)", "0.3 / my_gap"),
    },
    "compactness": {
        "long faces count more": changed(COMPACTNESS, "unit[labels == k].mean(0)", "x[labels == k].mean(0)"),
        "the mean over faces for the mean over classes": changed(
            COMPACTNESS, "np.mean([own[labels == k].mean() for k in classes])", "own.mean()"
        ),
        "the mean pair for the closest": changed(
            COMPACTNESS,
            "np.arccos(cosines.max())",
            "np.arccos(cosines[~np.eye(len(cosines), dtype=bool)].clip(-1, 1)).mean()",
        ),
        "the centers are not scaled to length one": changed(
            COMPACTNESS, "    centers /= np.linalg.norm(centers, axis=1, keepdims=True)\n", ""
        ),
        "radians": changed(
            COMPACTNESS,
            "float(np.degrees(intra)), float(np.degrees(np.arccos(cosines.max())))",
            "float(intra), float(np.arccos(cosines.max()))",
        ),
        "intra over inter": changed(COMPACTNESS, "my_inter / my_intra", "my_intra / my_inter"),
    },
    "most_classes": {
        "one side of the cone": changed(MOST, "2 * spread", "spread"),
        "the simplex on the circle": changed(
            MOST, "    if circle:\n        return math.floor(2 * math.pi / need)\n", ""
        ),
        "the circle in many dimensions": changed(
            MOST, "    if circle:\n        return", "    if True:\n        return"
        ),
        "rounded up": changed(MOST, "math.floor(1 - 1 / math.cos(need))", "math.ceil(1 - 1 / math.cos(need))"),
        "the sign of the cosine": changed(MOST, "1 - 1 / math.cos(need)", "1 + 1 / math.cos(need)"),
        "no single class": changed(MOST, "    if need > math.pi:\n        return 1\n", ""),
    },
}

LOSES = {
    "boundary": dict.fromkeys(MISTAKES["boundary"], 2) | {"the lengths of the weights for that of their difference": 1},
    "width": dict.fromkeys(MISTAKES["width"], 3) | {"the height in radians": 1, "the small angle for its sine": 1},
    "compactness": {"radians": 3, "intra over inter": 1},
}
