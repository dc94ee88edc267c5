"""Files that a model names lie within its folder, or among the blobs of the hub repository it is a snapshot of."""

from pathlib import Path

import numpy as np
import onnx
import onnx.helper
import pytest

from serve_app.errors import ModelUnusable
from serve_app.files.genai_config import GenaiConfig
from serve_app.files.inside import resolve_inside
from serve_app.files.onnx_files import read_files


def outside(tensor: onnx.TensorProto, location: str, **entries: object) -> onnx.TensorProto:
    """Move the tensor's data to a file."""
    tensor.ClearField("raw_data")
    tensor.ClearField("float_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def tensor(name: str = "weight", count: int = 4) -> onnx.TensorProto:
    return onnx.helper.make_tensor(name, onnx.TensorProto.FLOAT, [count], np.zeros(count, np.float32).tobytes(), raw=True)


def save(folder: Path, weight: onnx.TensorProto, where: str = "initializer") -> None:
    """Write a graph that holds the tensor in one of the places where graphs hold tensors."""
    output = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [4])
    constant = onnx.helper.make_node("Constant", [], ["y"], value=tensor("inner"))
    nodes, functions, initializers, sparse = [constant], [], [], []
    if where == "initializer":
        initializers = [weight]
    elif where == "sparse":
        indices = onnx.helper.make_tensor("at", onnx.TensorProto.INT64, [4], [0, 1, 2, 3])
        sparse = [onnx.helper.make_sparse_tensor(weight, indices, [8])]
    elif where == "constant":
        nodes = [onnx.helper.make_node("Constant", [], ["y"], value=weight)]
    elif where == "branch":
        branches = {
            "then_branch": onnx.helper.make_graph(
                [onnx.helper.make_node("Constant", [], ["z"], value=weight)], "then", [], [output]
            ),
            "else_branch": onnx.helper.make_graph([constant], "else", [], [output], [weight]),
        }
        nodes = [onnx.helper.make_node("If", ["c"], ["y"], **branches)]
    elif where == "function":
        inner = onnx.helper.make_node("Constant", [], ["y"], value=weight)
        functions = [onnx.helper.make_function("own", "F", [], ["y"], [inner], [onnx.helper.make_opsetid("", 21)])]
    graph = onnx.helper.make_graph(nodes, "g", [], [output], initializers, sparse_initializer=sparse)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(onnx.helper.make_model(graph, functions=functions).SerializeToString())


PLACES = ["initializer", "sparse", "constant", "branch", "function"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model's folder beside a file that is none of its business."""
    (tmp_path / "secret").write_bytes(bytes(64))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_bytes(bytes(16))
    return tmp_path / "model"


@pytest.mark.parametrize("where", PLACES)
def test_data_beside_the_graph_is_found_wherever_the_graph_names_it(folder: Path, where: str) -> None:
    save(folder, outside(tensor(), "weights", offset=0, length=16), where)
    assert read_files(folder, "model.onnx").data == {"weights": folder.resolve() / "weights"}


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("location", ["../secret", "a/../../secret", "/etc/hostname", "..\\secret", "*/_ORT_MEM_ADDR_/*"])
def test_paths_that_leave_the_folder_are_refused_as_written(folder: Path, location: str, where: str) -> None:
    save(folder, outside(tensor(), location), where)
    with pytest.raises(ModelUnusable) as refused:
        read_files(folder, "model.onnx")
    assert refused.value.message.startswith(f"tensor weight of model.onnx lies in {location!r}, which leaves the model's folder")
    assert str(folder) not in refused.value.message


def test_absolute_paths_are_refused_even_into_the_folder(folder: Path) -> None:
    save(folder, outside(tensor(), str(folder / "weights")))
    with pytest.raises(ModelUnusable, match="which leaves the model's folder"):
        read_files(folder, "model.onnx")


def test_links_may_stay_and_not_leave(folder: Path) -> None:
    (folder / "within").symlink_to("weights")
    (folder / "away").symlink_to("../secret")
    (folder / "twice").symlink_to("away")
    (folder / "loop").symlink_to("loop")
    (folder / "up").symlink_to("..", target_is_directory=True)
    assert resolve_inside(folder, "within", "it") == folder.resolve() / "weights"
    for name in ("away", "twice", "up/secret"):
        with pytest.raises(ModelUnusable, match=f"it lies in '{name}', a link that leaves the model's folder"):
            resolve_inside(folder, name, "it")
    for name in ("loop", "absent", "weights/x"):
        with pytest.raises(ModelUnusable, match=f"it lies in '{name}', which is missing or cannot be read"):
            resolve_inside(folder, name, "it")
    with pytest.raises(ModelUnusable, match=r"it lies in '\.', which is not a file|leaves"):
        resolve_inside(folder, ".", "it")


def hub(tmp_path: Path, below: str = "") -> Path:
    """Return a snapshot's folder in the form of the hub's cache."""
    repository = tmp_path / "hub" / "models--someone--model"
    snapshot = repository / "snapshots" / "0123abcd" / below
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    return snapshot


@pytest.mark.parametrize(("below", "up"), [("", "../../"), ("cpu/int4", "../../../../")])
def test_a_hub_snapshot_may_link_into_its_own_blobs(tmp_path: Path, below: str, up: str) -> None:
    snapshot = hub(tmp_path, below)
    blobs = tmp_path / "hub" / "models--someone--model" / "blobs"
    save(blobs, outside(tensor(), "model.onnx.data"))
    (blobs / "model.onnx").rename(blobs / "aaaa")
    (blobs / "bbbb").write_bytes(bytes(16))
    (snapshot / "model.onnx").symlink_to(f"{up}blobs/aaaa")
    (snapshot / "model.onnx.data").symlink_to(f"{up}blobs/bbbb")
    files = read_files(snapshot, "model.onnx")
    assert files.graph == blobs.resolve() / "aaaa"
    assert files.data == {"model.onnx.data": blobs.resolve() / "bbbb"}
    elsewhere = tmp_path / "link"
    elsewhere.symlink_to(snapshot)
    assert read_files(elsewhere, "model.onnx").graph == files.graph


def test_another_repositorys_blobs_are_elsewhere(tmp_path: Path) -> None:
    snapshot = hub(tmp_path)
    other = tmp_path / "hub" / "models--someone--other" / "blobs"
    other.mkdir(parents=True)
    (other / "x").write_bytes(bytes(16))
    (snapshot / "model.onnx").symlink_to(other / "x")
    (snapshot / "refs").symlink_to("../../refs")
    for name in ("model.onnx", "refs"):
        with pytest.raises(ModelUnusable, match="lies in"):
            resolve_inside(snapshot, name, "it")


def test_blobs_that_are_themselves_a_link_lead_nowhere(tmp_path: Path) -> None:
    snapshot = hub(tmp_path)
    (tmp_path / "secret").write_bytes(bytes(16))
    blobs = tmp_path / "hub" / "models--someone--model" / "blobs"
    blobs.rmdir()
    blobs.symlink_to(tmp_path)
    (snapshot / "model.onnx").symlink_to("../../blobs/secret")
    with pytest.raises(ModelUnusable, match="a link that leaves"):
        resolve_inside(snapshot, "model.onnx", "it")


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"offset": 4}, r"weights has 16 bytes, but tensor weight of model\.onnx ends at byte 20"),
        ({"offset": 4, "length": 12}, "takes 16 bytes, but the graph says 12 from byte 4"),
        ({"offset": -16}, "takes 16 bytes, but the graph says 16 from byte -16"),
        ({"offset": "x"}, "has an offset or a length that is not a number"),
        ({"offset": "9" * 5000}, "has an offset or a length that is not a number"),
        ({"length": 10**30}, "takes 16 bytes"),
    ],
)
def test_data_files_must_hold_every_tensor(folder: Path, entries: dict[str, object], message: str) -> None:
    save(folder, outside(tensor(), "weights", **entries))
    with pytest.raises(ModelUnusable, match=message):
        read_files(folder, "model.onnx")


@pytest.mark.parametrize("kind", [0, 99, onnx.TensorProto.STRING])
def test_tensors_of_unknown_types_are_refused(folder: Path, kind: int) -> None:
    weight = outside(tensor(), "weights")
    weight.data_type = kind
    save(folder, weight)
    with pytest.raises(ModelUnusable, match="has an unknown type or size"):
        read_files(folder, "model.onnx")


def test_four_bits_take_half_a_byte(folder: Path) -> None:
    weight = outside(tensor(count=33), "weights")
    weight.data_type = onnx.TensorProto.UINT4
    save(folder, weight)
    with pytest.raises(ModelUnusable, match="ends at byte 17"):
        read_files(folder, "model.onnx")


def test_a_graph_cut_short_or_of_another_form_is_refused(folder: Path) -> None:
    save(folder, outside(tensor(), "weights"))
    whole = (folder / "model.onnx").read_bytes()
    for content in (whole[: len(whole) // 2], whole[:-1], b"", b"not a graph", b"\x08" * 100, b'{"a": 1}'):
        (folder / "model.onnx").write_bytes(content)
        with pytest.raises(ModelUnusable, match=r"^model\.onnx (is not an ONNX graph|holds no graph)"):
            read_files(folder, "model.onnx")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is missing or is not JSON"),
        ("{", "is missing or is not JSON"),
        ("[" * 10000, "is missing or is not JSON"),
        ("[]", "has no usable model in genai_config.json"),
        ('{"model": 1}', "has no usable model in genai_config.json"),
        ('{"model": {"vocab_size": 1}}', "has no usable decoder in model"),
        ('{"model": {"vocab_size": 1, "decoder": {"filename": 3}}}', r"has no usable filename in model\.decoder"),
        ('{"model": {"vocab_size": 1, "decoder": {"filename": "a"}}}', "has no usable num_hidden_layers"),
    ],
)
def test_a_broken_genai_config_is_refused(folder: Path, content: str, message: str) -> None:
    (folder / "genai_config.json").write_text(content)
    with pytest.raises(ModelUnusable, match=message):
        GenaiConfig.read(folder)
