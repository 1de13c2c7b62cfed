"""What a study file may say, and the sentence for what it may not."""

import re
from pathlib import Path

import pytest

from wardround_shared.errors import StudyError, UnsupportedError
from wardround_shared.study import Study, check_study, load_study, parse_study

MINIMAL = """
[study]
name = "small"
task = "tabular-classification"
classes = ["absent", "present"]
[data]
source = "table"
table = ["*.csv"]
label = { column = "y" }
features = [{ column = "a" }]
[model]
name = "mlp"
[training]
rounds = 3
learning-rate = 0.1
[privacy]
mechanism = "none"
[aggregation]
secure = false
"""


def test_study_id_does_not_depend_on_the_order_of_keys_or_on_written_out_defaults():
    one = parse_study(MINIMAL, origin="a")
    lines = MINIMAL.replace("rounds = 3\nlearning-rate = 0.1", "learning-rate = 0.1\nrounds = 3")
    other = parse_study(lines + "minimum-sites = 2\n", origin="b")
    assert one.study_id == other.study_id


def test_study_id_changes_with_any_value():
    changed = parse_study(MINIMAL, origin="a", overrides=["training.learning-rate=0.2"])
    assert changed.study_id != parse_study(MINIMAL, origin="a").study_id


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("training.roundz=3", ["study.toml", "training.roundz", "no such key"]),
        ("training.rounds=-1", ["training.rounds", "-1", "greater than or equal to 1"]),
        ("training.rounds=many", ["training.rounds", "many"]),
        ("training.learning-rate=nan", ["training.learning-rate", "finite"]),
        ("data.table=3", ["data.table", "3"]),
        ("data.features=[{column='a', kind='words'}]", ["data.features.0.kind", "numeric"]),
        ("data.features=[]", ["data.features"]),
        ("model.name=mpl", ["model", "mpl", "'mlp', 'cnn', 'resnet18'"]),
        ("data.source=fax", ["data", "fax", "dicom"]),
        ("preprocessing.steps=[{name='resize', size=[3]}]", ["preprocessing.steps.0.size"]),
        ("study.classes=['a', 'a']", ["classes must differ"]),
        ("data.label={column='y', values={maybe=['1']}}", ["data.label.values", "maybe"]),
        ("training.proximal=0.1", ["proximal", "fedprox"]),
        ("privacy.epsilon=0", ["privacy.epsilon"]),
        (
            "study.task=image-classification",
            ["study.task", "image-classification", "data.source", "tabular-classification"],
        ),
    ],
)
def test_a_fault_is_named_with_file_key_value_and_what_is_allowed(override, words):
    with pytest.raises(StudyError) as caught:
        parse_study(MINIMAL, origin="study.toml", overrides=[override])
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


SIGNALS = (
    "study.task=signal-classification",
    "data={source='signals', label={column='y'}, arrays=['a.npz'], sampling-rate=100.0}",
)
WFDB = (
    "study.task=signal-classification",
    "data={source='wfdb', label={column='y'}, table=['a.csv'], record='r', leads=['II']}",
)
IMAGES = (
    "study.task=image-classification",
    "data={source='images', label={column='y'}, table=['a.csv'], file='f'}",
)
ARRAYS = (
    "study.task=image-classification",
    "data={source='images', label={column='y'}, arrays=['a.npz']}",
)


@pytest.mark.parametrize(
    ("others", "idle", "words", "working"),
    [
        (
            ["training.optimiser=adamw"],
            "training.momentum=0.9",
            ["training.momentum: 0.9", '"adamw"', "momentum = 0", '"sgd"'],
            "training.optimiser=sgd",
        ),
        (
            ["training.local-steps=5"],
            "training.local-epochs=2",
            ["training.local-epochs: 2", "local-steps"],
            "training={rounds=1, learning-rate=0.1, local-epochs=2}",
        ),
        (
            ["simulation.partition=iid"],
            "simulation.alpha=0.5",
            ["simulation.alpha: 0.5", '"iid"', '"dirichlet"'],
            "simulation.partition=dirichlet",
        ),
        (
            ["model.name=lstm"],
            "model.front-kernel=5",
            ["model.front-kernel: 5", "front"],
            "model.front=8",
        ),
        (
            ["model.name=lstm", "model.front=0"],
            "model.front-stride=2",
            ["model.front-stride: 2", "front"],
            "model.front=8",
        ),
        (
            ["model.name=gru"],
            "personal.layers=normalisation",
            ['personal.layers: "normalisation"', '"gru"', "no normalisation layer"],
            "model.front=8",
        ),
        (
            [],
            "personal.fine-tune-learning-rate=0.1",
            ["personal.fine-tune-learning-rate: 0.1", "fine-tune-epochs"],
            "personal.fine-tune-epochs=1",
        ),
        (WFDB, "data.before=0.2", ["data.before: 0.2", "annotator"], "data.annotator=atr"),
        (
            IMAGES,
            "data.static=[{column='a', form='variation'}]",
            ['data.static.0.form: "variation"', "patient"],
            "data.patient=p",
        ),
        (WFDB, "data.after=0.2", ["data.after: 0.2", "annotator"], "data.annotator=atr"),
        (
            IMAGES,
            "data.images=*scans",
            ['data.images: "*scans"', "arrays"],
            "data={source='images', label={column='y'}, arrays=['a.npz'], images='*scans'}",
        ),
        (
            ARRAYS,
            "data.folder=below",
            ['data.folder: "below"', "patterns"],
            "data={source='images', label={column='y'}, table=['a'], file='f', folder='below'}",
        ),
        (
            SIGNALS,
            "preprocessing.steps=[{name='normalise', lower=5.0}]",
            ["preprocessing.steps.0.lower: 5.0", "signals", "median"],
            "preprocessing.steps=[{name='normalise'}]",
        ),
    ],
)
def test_a_key_that_would_have_no_effect_is_refused(others, idle, words, working):
    with pytest.raises(StudyError) as caught:
        parse_study(MINIMAL, origin="study.toml", overrides=[*others, idle])
    for word in ["study.toml: ", *words]:
        assert word in str(caught.value)
    parse_study(MINIMAL, origin="study.toml", overrides=others)
    parse_study(MINIMAL, origin="study.toml", overrides=[*others, idle, working])


@pytest.mark.parametrize(
    ("task", "target"),
    [
        ("segmentation", "mask={above=0.5}"),
        ("localisation", "points={row='r', column='c', radius='s'}"),
    ],
)
def test_columns_beside_an_image_are_refused_where_every_pixel_is_answered(task, target):
    data = f"data={{source='images', table=['a'], file='f', {target}, static=[{{column='a'}}]}}"
    overrides = [f"study.task=image-{task}", data, "model={name='unet'}"]
    if task == "localisation":
        overrides.append("study.classes=['lesion']")
    with pytest.raises(StudyError, match=r"data\.static: a model that answers for each pixel"):
        parse_study(MINIMAL, origin="s", overrides=overrides)


def test_own_layers_do_not_go_with_a_mean_of_models():
    overrides = ["model={name='cnn1d'}", "personal.layers=normalisation"]
    parse_study(MINIMAL, origin="study.toml", overrides=overrides)
    with pytest.raises(UnsupportedError, match=r"training\.average-last: 3 cannot be combined"):
        parse_study(MINIMAL, origin="s", overrides=[*overrides, "training.average-last=3"])


SCAFFOLD = ("training.strategy=scaffold", "training.local-steps=5")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("training.optimiser=adam", r'training\.optimiser: "adam" does not go with'),
        ("training.momentum=0.9", r"training\.momentum: 0\.9 does not go with"),
        ("aggregation.ring-bits=16", r"aggregation\.ring-bits: 16 does not go with"),
        ("training.proximal=0.1", "proximal > 0 goes with strategy = 'fedprox'"),
    ],
)
def test_scaffold_takes_plain_steps_only(wrong, words):
    scaffold = ["training.momentum=0", "aggregation.secure=true", *SCAFFOLD]
    assert parse_study(MINIMAL, origin="s", overrides=scaffold).training.local_steps == 5
    with pytest.raises(StudyError, match=words):
        parse_study(MINIMAL, origin="s", overrides=[*scaffold, wrong])


def test_scaffold_needs_as_many_steps_at_every_site():
    with pytest.raises(StudyError, match=r'training\.local-steps: strategy = "scaffold" needs it'):
        parse_study(MINIMAL, origin="s", overrides=["training.momentum=0", SCAFFOLD[0]])


@pytest.mark.parametrize("other", ["layers=normalisation", "fine-tune-epochs=1"])
def test_a_site_has_one_model_of_its_own(other):
    overrides = ["model={name='cnn1d'}", f"personal.{other}"]
    parse_study(MINIMAL, origin="s", overrides=overrides)
    with pytest.raises(StudyError, match=rf"s: personal\.ditto: 0 .* personal\.{other[:6]}"):
        parse_study(MINIMAL, origin="s", overrides=[*overrides, "personal.ditto=0"])


def test_a_pull_beyond_the_shared_model_is_refused():
    at_most = ["training.learning-rate=0.1", "personal.ditto=10"]
    assert parse_study(MINIMAL, origin="s", overrides=at_most).personal.any
    with pytest.raises(StudyError, match=r"personal\.ditto: 10.1 times training\.learning-rate"):
        parse_study(MINIMAL, origin="s", overrides=[*at_most, "personal.ditto=10.1"])


def test_momentum_can_be_taken_back_where_the_optimiser_has_none():
    no_momentum = ["training.optimiser=adam", "training.momentum=0"]
    assert parse_study(MINIMAL, origin="s", overrides=no_momentum).training.momentum == 0


def test_what_only_matters_to_privacy_or_masks_may_stay_when_they_are_off():
    """An override that switches them off does not have to take the rest out of the file."""
    private = 'mechanism = "dp-sgd"\nepsilon = 1.0\nmax-grad-norm = 2.0\nexamples-per-patient = 3'
    text = MINIMAL.replace('mechanism = "none"', private)
    text = text.replace("secure = false", "secure = true\nring-bits = 16")
    off = ["privacy.mechanism=none", "aggregation.secure=false"]
    assert parse_study(text, origin="s", overrides=off).privacy.private is False


def test_the_patient_is_the_unit_unless_the_study_says_otherwise():
    private = ["privacy.mechanism=dp-sgd"]
    assert parse_study(MINIMAL, origin="s", overrides=private).privacy.unit == "patient"
    private.append("privacy.unit=record")
    assert parse_study(MINIMAL, origin="s", overrides=private).privacy.unit == "record"


def test_a_missing_mechanism_is_no_mechanism_none():
    with pytest.raises(StudyError, match=r"privacy\.mechanism: this key is required"):
        parse_study(MINIMAL.replace('mechanism = "none"', ""), origin="s")


def test_private_settings_hold_only_while_training_is_private():
    text = MINIMAL + "[private.training]\nbatch-size = 64\nrounds = 9\n"
    plain = parse_study(text, origin="s")
    private = ["privacy.mechanism=dp-sgd"]
    assert plain.training.batch_size == 32
    assert parse_study(text, origin="s", overrides=private).training.batch_size == 64


@pytest.mark.parametrize(
    ("section", "key"),
    [
        ("[private.trianing]\nrounds = 9\n", "private.trianing: there is no such key"),
        ("[private]\nrounds = 9\n", "private.rounds: there is no such key"),
        ("[private.training]\nroundz = 9\n", "private.training.roundz: there is no such key"),
        ("[private.training]\nrounds = 0\n", "private.training.rounds: 0 is not allowed"),
        ("[private.model]\nname = 'cnn'\nhidden = []\n", "private.model.hidden: there is no"),
        ("[private.preprocessing]\nsteps = [{ name = 'crop' }]\n", "private.preprocessing.steps.0"),
    ],
)
@pytest.mark.parametrize("mechanism", [[], ["privacy.mechanism=dp-sgd"]])
def test_a_fault_under_private_is_refused_whether_it_is_in_force_or_not(section, key, mechanism):
    with pytest.raises(StudyError) as caught:
        parse_study(MINIMAL + section, origin="study.toml", overrides=mechanism)
    assert str(caught.value).startswith(f"study.toml: {key}")


def test_private_settings_that_are_not_in_force_need_not_suit_an_override():
    text = MINIMAL + "[private.training]\noptimiser = 'sgd'\nmomentum = 0.9\n"
    plain = parse_study(text, origin="s", overrides=["training.optimiser=adam"])
    assert plain.training.optimiser == "adam"


def test_a_private_model_of_another_kind_replaces_the_model_as_a_whole():
    text = MINIMAL.replace('name = "mlp"', 'name = "mlp"\nhidden = [4]')
    text += '[private.model]\nname = "cnn"\nwidth = 8\n'
    private = ["privacy.mechanism=dp-sgd"]
    assert parse_study(text, origin="s", overrides=private).model.name == "cnn"
    assert parse_study(text, origin="s").model.name == "mlp"


def test_an_override_wins_over_private_settings():
    text = MINIMAL + "[private.training]\nrounds = 9\n"
    private = ["privacy.mechanism=dp-sgd", "training.rounds=2"]
    assert parse_study(text, origin="s", overrides=private).training.rounds == 2


def test_overrides_need_a_key_and_a_value():
    for override in ("training.rounds", "=3", "training..rounds=3", "study.name.x=1"):
        with pytest.raises(StudyError, match="--set"):
            parse_study(MINIMAL, origin="s", overrides=[override])


def test_a_file_that_is_missing_or_no_toml_is_one_sentence(tmp_path: Path):
    with pytest.raises(StudyError, match="cannot be read"):
        load_study(tmp_path / "none.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("[study\n")
    with pytest.raises(StudyError, match="not a TOML file"):
        load_study(broken)
    broken.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(StudyError, match="cannot be read"):
        load_study(broken)


def test_a_study_survives_being_written_and_read_again():
    study = parse_study(MINIMAL, origin="s")
    written = study.model_dump(mode="json", by_alias=True, exclude_unset=True)
    again = check_study(written, origin="t")
    assert again == study
    assert again.study_id == study.study_id


def test_every_shipped_study_is_valid_and_named_after_its_file():
    folder = Path(__file__).parents[2] / "simulations" / "studies"
    files = sorted(folder.glob("*.toml"))
    assert files
    for file in files:
        assert load_study(file).study.name == file.stem
        assert not load_study(file, ["privacy.mechanism=none"]).privacy.private


def test_the_documentation_names_every_key():
    text = (Path(__file__).parents[2] / "docs" / "study-file.md").read_text(encoding="utf-8")
    schema = Study.model_json_schema(by_alias=True)
    sections = [*schema["$defs"].values(), schema]
    keys = {key for section in sections for key in section.get("properties", {})}
    assert not {key for key in keys if not re.search(rf"[`\[ ]{key}\b", text)}


@pytest.mark.parametrize(
    ("name", "override"),
    [
        ("diabetes", 'data.label.column="{first}"'),
        ("survival-tcga-brca", 'data.survival.time="{first}"'),
        ("survival-tcga-brca", 'data.survival.event="{first}"'),
        ("text-mts-dialog", 'data.label.column="dialogue"'),
        ("ecg-norm", 'data.label.column="sex"'),
    ],
)
def test_a_model_is_not_told_what_it_is_to_tell(name, override):
    study = load_study(STUDIES / f"{name}.toml")
    first = study.data.features[0].column if hasattr(study.data, "features") else ""
    with pytest.raises(StudyError, match=r"data\.(features|static|text).*is to tell") as refused:
        load_study(STUDIES / f"{name}.toml", [override.format(first=first)])
    assert "\n" not in str(refused.value)


STUDIES = Path(__file__).parents[2] / "simulations" / "studies"
