"""The papers' printed numbers: complete, as printed, consistent with themselves and with the papers' text."""
import csv
import re
from collections import Counter
from decimal import Decimal
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "data" / "reported"
HEADER = ["row", "column", "metric", "value"]
COUNTS = {
    "p1": (12, 12, 16, 16, 16),
    "p2": (36, 14, 64, 40, 5, 27, 15, 8, 10, 8, 20),
    "p3": (48, 53, 6, 10),
    "p4": (12, 24, 8, 40, 20, 24),
    "p5": (11, 14, 18),
}
TABLES = {f"{paper}_table{i}": n for paper, counts in COUNTS.items() for i, n in enumerate(counts, 1)}
PERCENT = {"Fixed-Acc", "Adaptive-Acc", "ACC", "AUC", "TCR", "Multi-label Acc", "Ranking Acc"}
GAIN = {"Multi-label Acc gain", "Ranking Acc gain", "AUC gain"}
COST = {"Flops (G)", "Params (M)"}
METRICS = {
    "p1": {"Fixed-Acc", "Adaptive-Acc"}, "p2": {"ACC", "AUC"} | COST,
    "p3": {"Multi-label Acc", "Ranking Acc", "AUC", "R2"} | GAIN, "p4": {"TCR"}, "p5": {"ACC", "AUC"},
}
TEXTS = {
    "p1": "seqfakeformer", "p2": "long_distance_attention", "p3": "contrastive_mil_ranking",
    "p4": "demystifying_attention", "p5": "motion_consistency_gml",
}
DECIMAL = re.compile(r"(?<![\w.])\d+\.\d+(?![\w.])")


def read(table):
    with open(FOLDER / f"{table}.csv", newline="", encoding="utf-8") as f:
        return list(csv.DictReader(f))


def lookup(table):
    return {(r["row"], r["column"], r["metric"]): r["value"] for r in read(table)}


def block(table, rows, columns, metric):
    """The values of some rows and columns as one string, to compare with a printed line."""
    values = lookup(table)
    return " ".join(values[r, c, metric] for r in rows for c in columns)


def test_all_29_tables_and_no_other():
    assert len(TABLES) == 29 and sum(TABLES.values()) == 607
    assert {f.stem for f in FOLDER.glob("*.csv")} == {*TABLES, "claims"}      # and the claims that are read from them


@pytest.mark.parametrize("table", TABLES)
def test_file_form(table):
    raw = (FOLDER / f"{table}.csv").read_bytes()
    text = raw.decode("utf-8")
    assert b"\r" not in raw and not text.startswith("\ufeff")
    assert text.endswith("\n") and not text.endswith("\n\n")
    lines = list(csv.reader(text.splitlines()))
    assert lines[0] == HEADER
    assert all(len(line) == 4 for line in lines)
    assert all(cell == cell.strip() and cell for line in lines for cell in line)
    assert not any(re.search(r"\[\d+\]|[†‡*{}]", cell) for line in lines for cell in line[:2]), "a citation or a footnote sign"


@pytest.mark.parametrize("table, count", TABLES.items())
def test_count_and_uniqueness(table, count):
    rows = read(table)
    assert len(rows) == count
    keys = Counter((r["row"], r["column"], r["metric"]) for r in rows)
    assert max(keys.values()) == 1, "no table of these papers prints a row, column and metric twice"


@pytest.mark.parametrize("table", TABLES)
def test_values_as_printed(table):
    for r in read(table):
        metric, value = r["metric"], r["value"]
        assert metric in METRICS[table[:2]], r
        assert re.fullmatch(r"(0|[1-9]\d{0,2})\.\d{1,2}", value), r
        if metric in PERCENT:
            assert 40 < float(value) <= 100, r  # the smallest printed percentage is 40.67: never a fraction
        elif metric in GAIN:
            assert 0 < float(value) < 30, r
        elif metric == "R2":
            assert table == "p3_table4" and 0 < float(value) < 1, r
        else:
            assert table == "p2_table7" and 14 < float(value) < 26, r


def test_printed_decimals_are_kept():
    """P1 and P3 print two decimals and P5 one; P2 and P4 mix them in known places."""
    short = Counter()
    for table in TABLES:
        for r in read(table):
            short[table] += len(r["value"].split(".")[1]) == 1
    assert {t: n for t, n in short.items() if n} == {
        "p2_table2": 1, "p2_table11": 3, "p4_table1": 3, "p4_table3": 8, "p4_table4": 6, "p4_table5": 10,
        "p4_table6": 16, "p5_table1": 11, "p5_table2": 14, "p5_table3": 18,
    }
    assert lookup("p2_table3")["Ours", "F2F", "AUC"] == "100.00"
    assert lookup("p1_table2")["Multi-Cls", "ResNet-50", "Adaptive-Acc"] == "46.00"


SPOTS = {
    "p1_table1": [("Multi-Cls", "ResNet-34", "Fixed-Acc", "69.66"), ("Ours", "ResNet-50", "Adaptive-Acc", "55.30")],
    "p1_table3": [("Two-Stream", "Face Components Manipulation", "Adaptive-Acc", "53.89"),
                  ("Two-Stream", "Face Attributes Manipulation", "Fixed-Acc", "66.77")],
    "p1_table4": [("Auto-regressive ✗ SECA ✓", "ResNet-34", "Adaptive-Acc", "51.71"),
                  ("Auto-regressive ✓ SECA ✗", "ResNet-50", "Fixed-Acc", "72.18")],
    "p1_table5": [("Auto-regressive ✗ SECA ✗", "ResNet-34", "Adaptive-Acc", "45.87")],
    "p2_table1": [("Face X-ray", "LQ", "AUC", "61.60"), ("F3-Net", "HQ", "ACC", "97.52")],
    "p2_table2": [("MesoNet", "Celeb-DF", "AUC", "53.6"), ("Ours", "Celeb-DF", "ACC", "99.13")],
    "p2_table6": [("High-frequency", "Celeb-DF", "AUC", "79.40")],
    "p2_table7": [("temporal", "Computation cost", "Params (M)", "24.74"), ("spatial", "Computation cost", "Flops (G)", "14.92")],
    "p2_table8": [("temporal", "HQ", "AUC", "99.85")],
    "p2_table9": [("m = 3", "FaceForensics++", "AUC", "99.94"), ("m = 4", "FaceForensics++", "ACC", "99.51")],
    "p2_table11": [("Multi-attentional", "398×398", "ACC", "94.9")],
    "p3_table1": [("MMNet (ResNet-50)", "Seq-FaceComp", "Ranking Acc", "73.93"), ("MMNet (ResNet-50)", "Seq-FaceAttr", "Ranking Acc", "69.27"),
                  ("Ours (Swin Transformer)", "Seq-FaceAttr", "Multi-label Acc", "90.74")],
    "p3_table2": [("Xception", "Cross-testing DFDC", "AUC", "48.98"), ("SBIs (EfficientNet-B4)", "Intra-testing CDF", "AUC", "93.74"),
                  ("RECCE (Xception)", "Cross-testing DFDC", "AUC", "69.06")],
    "p3_table3": [("V L_BCE^U ✗ L_BCE^V ✓ L_CLS^U ✓ L_Rank^U ✓", "Seq-FaceComp", "Ranking Acc", "72.87")],
    "p3_table4": [("Ours", "Eye", "R2", "0.61")],
    "p4_table1": [("3D ResNet (non-local 1,2,3,4)", "FS, DF, F2F, NT", "TCR", "86.72"), ("XceptionNet", "FS, DF, F2F, NT", "TCR", "81.0")],
    "p4_table2": [("3D ResNet (Non-local 4,4)", "NT", "TCR", "77.05")],
    "p4_table5": [("3D ResNet Pre-train ✗", "DF", "TCR", "58.80"), ("3D ResNet Pre-train ✓", "DF", "TCR", "91.81")],
    "p4_table6": [("3D ResNet (with NL134)", "FS", "TCR", "68.2"), ("3D ResNet (with NL1234)", "FS", "TCR", "65.71")],
    "p5_table1": [("R3D", "FF++", "ACC", "56.4"), ("GML (Ours)", "DFO", "ACC", "99.9")],
    "p5_table2": [("Tbra", "CDF", "AUC", "93.2")],
    "p5_table3": [("Xception+MCB+AD_wocls", "DFO", "AUC", "77.5"), ("Xception+MCB+AD_wol1", "CDF", "AUC", "72.3")],
}


@pytest.mark.parametrize("table", SPOTS)
def test_spot_values(table):
    values = lookup(table)
    for row, column, metric, value in SPOTS[table]:
        assert values[row, column, metric] == value


def test_dashes_have_no_line():
    assert ("MesoNet", "Celeb-DF", "ACC") not in lookup("p2_table2")
    assert ("High-frequency", "FF++", "AUC") not in lookup("p2_table6")
    assert ("SPSL (Xception)", "Cross-testing WDF", "AUC") not in lookup("p3_table2")
    assert ("C3D", "FF++", "ACC") not in lookup("p5_table1")
    assert ("DETR (ResNet-34)", "Seq-FaceComp", "Multi-label Acc") not in lookup("p3_table1")


@pytest.mark.parametrize("table", ["p3_table1", "p3_table2"])
def test_printed_gains_are_the_printed_differences(table):
    values, seen = lookup(table), 0
    for (row, column, metric), gain in values.items():
        if metric.endswith(" gain"):
            backbone = "ResNet-34" if "ResNet-34" in row else "ResNet-50"
            base = f"Multi-Cls ({backbone})" if table == "p3_table1" else "Xception"
            plain = metric.removesuffix(" gain")
            assert Decimal(values[row, column, plain]) - Decimal(values[base, column, plain]) == Decimal(gain), (row, column)
            seen += 1
    assert seen == {"p3_table1": 12, "p3_table2": 6}[table]


def test_numbers_that_two_tables_share():
    names = {"Face Components Manipulation": ("p1_table1", "p1_table4", "Seq-FaceComp"),
             "Face Attributes Manipulation": ("p1_table2", "p1_table5", "Seq-FaceAttr")}
    one, three = lookup("p1_table3"), lookup("p3_table1")
    for track, (main, ablation, name) in names.items():
        full = lookup(main)
        for metric in ("Fixed-Acc", "Adaptive-Acc"):
            assert one["Ours", track, metric] == full["Ours", "ResNet-50", metric]
            for backbone in ("ResNet-34", "ResNet-50"):
                assert lookup(ablation)["Auto-regressive ✓ SECA ✓", backbone, metric] == full["Ours", backbone, metric]
        for method in ("DRN", "MA", "Two-Stream"):
            assert three[f"{method} (ResNet-50)", name, "Ranking Acc"] == one[method, track, "Fixed-Acc"]
        for method, cited in (("Multi-Cls", "Multi-Cls"), ("DETR", "DETR"), ("Ours", "SeqFakeFormer")):
            for backbone in ("ResNet-34", "ResNet-50"):
                pair = full[method, backbone, "Fixed-Acc"], three[f"{cited} ({backbone})", name, "Ranking Acc"]
                differs = (method, backbone, name) == ("Multi-Cls", "ResNet-50", "Seq-FaceComp")
                assert pair == ("69.65", "69.75") if differs else pair[0] == pair[1]  # the papers disagree here, see README.md
    assert lookup("p3_table3")["VI L_BCE^U ✓ L_BCE^V ✓ L_CLS^U ✓ L_Rank^U ✓", "Seq-FaceComp", "Ranking Acc"] \
        == three["Ours (ResNet-50)", "Seq-FaceComp", "Ranking Acc"]

    manipulations = ("DF", "F2F", "FS", "NT")
    for row, cited in (("Steg. Features", "Steg. Features + SVM"), ("Cozzolino et al.",) * 2, ("Bayar et al.", "Bayar and Stamm"),
                       ("Rahmouni et al.",) * 2, ("MesoNet",) * 2):
        assert block("p2_table3", [row], manipulations, "ACC") == block("p4_table4", [cited], manipulations, "TCR")
    best = block("p4_table4", ["3D ResNet (non-local 1,2,3,4)"], manipulations, "TCR")
    assert best == block("p4_table2", ["3D ResNet (Non-local 1,2,3,4)"], manipulations, "TCR")
    assert best == block("p4_table5", ["3D ResNet (with att) Pre-train ✓"], manipulations, "TCR")
    joint = block("p4_table3", ["TimeSformer (Joint)"], manipulations, "TCR")
    assert joint == block("p4_table4", ["TimeSformer"], manipulations, "TCR") == block("p4_table5", ["TimeSformer Pre-train ✓"], manipulations, "TCR")

    for metric in ("ACC", "AUC"):
        ours = lookup("p2_table1")["Ours", "HQ", metric]
        assert ours == lookup("p2_table8")["spatial-temporal", "HQ", metric]
        assert ours == lookup("p2_table9")["m = 4", "FaceForensics++", metric] == lookup("p2_table10")["n = 3", "FaceForensics++", metric]
        assert lookup("p2_table8")["Xception", "HQ", metric] == lookup("p2_table1")["Xception", "HQ", metric]
    for row in ("Xception", "spatial", "temporal", "spatial-temporal"):
        assert lookup("p2_table7")[row, "HQ", "ACC"] == lookup("p2_table8")[row, "HQ", "ACC"]
    assert lookup("p2_table11")["Ours", "398×398", "ACC"] == lookup("p2_table2")["Ours", "Celeb-DF", "ACC"]


def test_differences_that_the_prose_of_p5_states():
    def difference(table, high, low, column, metric="AUC"):
        values = lookup(table)
        return str(Decimal(values[high, column, metric]) - Decimal(values[low, column, metric]))

    assert difference("p5_table1", "GML (Ours)", "Xception", "FF++", "ACC") == "5.6"
    assert difference("p5_table1", "GML (Ours)", "Xception", "DFO", "ACC") == "11.9"
    assert difference("p5_table3", "Xception+MCB", "Xception", "DFO") == "17.0"
    assert difference("p5_table3", "Xception+MCB", "Xception", "CDF") == "6.5"
    assert difference("p5_table3", "Xception+MCB", "Xception+STM", "DFO") == "4.0"
    assert difference("p5_table3", "Xception+MCB", "Xception+STM", "CDF") == "2.0"
    assert difference("p5_table3", "Xception+MCB+AD", "Xception+MCB", "DFO") == "8.8"
    assert difference("p5_table3", "Xception+MCB+AD", "Xception+MCB", "CDF") == "3.3"


def test_readme_index_agrees_with_the_files():
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    index = dict(re.findall(r"^\| (p\d_table\d+) \|.*\| (\d+) \|$", text, re.M))
    assert {table: int(n) for table, n in index.items()} == TABLES
    assert f"{sum(TABLES.values())} values" in text


def occurrences(sequence, stream):
    return sum(stream[i:i + len(sequence)] == sequence for i in range(len(stream) - len(sequence) + 1))


@pytest.mark.parametrize("paper", TEXTS)
def test_values_stand_in_the_paper_in_this_order(paper, shared):
    """A table's values, row by row or (turned tables) column by column, are consecutive decimal numbers of the paper's text."""
    source = shared / "papers" / f"{TEXTS[paper]}.txt"
    if not source.exists():
        pytest.skip("the paper's text is not here")
    stream = DECIMAL.findall(source.read_text(encoding="utf-8"))
    assert Counter(r["value"] for t in TABLES if t.startswith(paper) for r in read(t)) <= Counter(stream)
    for table in (t for t in TABLES if t.startswith(paper)):
        rows = read(table)
        groups = {}
        for r in rows:
            groups.setdefault((r["column"], r["metric"]), []).append(r["value"])
        by_row = [r["value"] for r in rows]
        by_column = [v for values in groups.values() for v in values]
        assert max(occurrences(by_row, stream), occurrences(by_column, stream)) == 1, table


def test_an_altered_table_is_not_found_in_the_text():
    """The search above has teeth: a swapped, lost or doubled number is no run of the stream."""
    stream = "1.0 2.0 3.0 3.0 4.0".split()
    assert occurrences(["2.0", "3.0", "3.0"], stream) == 1
    for wrong in (["3.0", "2.0", "3.0"], ["2.0", "3.0", "4.0"], ["2.0", "3.0", "3.0", "3.0"], ["2.0", "3.00"]):
        assert occurrences(wrong, stream) == 0
