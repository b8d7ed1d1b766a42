"""Quantizers against plain references, and files that are not quantizers."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from lst.errors import LstError
from lst.units.quantizers import KMeansQuantizer, LinearQuantizer, load_quantizer
from tests.units.tiny import codebook, linear_quantizer

FEATURES = np.random.default_rng(5).standard_normal((300, 32)).astype(np.float32)


def reference_linear(content: dict, features: np.ndarray) -> list[int]:
    """Spirit LM's quantizer, written as its description reads: one frame at a time."""
    weights = {name: tensor.double().numpy() for name, tensor in content["model_weight"].items()}
    codes = []
    for frame in features.astype(np.float64):
        hidden = weights["0.weight"].dot(frame) + weights["0.bias"]
        for index in (2, 4):
            hidden = np.maximum(hidden, 0) + 0.01 * np.minimum(hidden, 0)
            hidden = weights[f"{index}.weight"].dot(hidden) + weights[f"{index}.bias"]
        codes.append(int(np.argmax(hidden)))
    return codes


def test_linear_quantizer_equals_its_description(tmp_path: Path) -> None:
    content = linear_quantizer(blank_bias=15.0)
    torch.save(content, tmp_path / "L2_quantizer_500.pt")
    quantizer = load_quantizer(tmp_path / "L2_quantizer_500.pt")
    assert isinstance(quantizer, LinearQuantizer)
    codes = quantizer.codes(FEATURES)
    assert codes.tolist() == reference_linear(content, FEATURES)
    assert quantizer.blank == 500
    assert quantizer.num_units == 501
    assert 0 < (codes == 500).mean() < 1


def test_linear_quantizer_equals_torch() -> None:
    content = linear_quantizer(dim=64, upstream_dim=621)
    weights = content["model_weight"]
    sizes = [tuple(weights[f"{index}.weight"].shape) for index in (0, 2, 4)]
    assert sizes == [(34, 64), (4, 34), (501, 4)]  # m = 120
    modules: list[torch.nn.Module] = []
    for out, fan_in in sizes:
        modules += [torch.nn.Linear(fan_in, out), torch.nn.LeakyReLU()]
    network = torch.nn.Sequential(*modules[:-1])
    network.load_state_dict(weights)
    quantizer = LinearQuantizer([(weights[f"{i}.weight"].numpy(), weights[f"{i}.bias"].numpy()) for i in (0, 2, 4)])
    features = np.random.default_rng(0).standard_normal((200, 64)).astype(np.float32)
    with torch.inference_mode():
        expected = network(torch.from_numpy(features)).argmax(dim=-1).numpy()
    assert (quantizer.codes(features) == expected).mean() > 0.99


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_nearest_centroid_is_stable(offset: float) -> None:
    """Also far from the origin, where float32 dot products lose the differences."""
    centroids = codebook(501, 32) + np.float32(offset)
    features = FEATURES + np.float32(offset)
    exact = (
        ((features[:, None].astype(np.float64) - centroids[None].astype(np.float64)) ** 2).sum(axis=2).argmin(axis=1)
    )
    quantizer = KMeansQuantizer(centroids)
    assert quantizer.codes(features).tolist() == exact.tolist()
    assert quantizer.codes(centroids).tolist() == list(range(501))


def test_each_frame_is_quantized_on_its_own() -> None:
    quantizer = KMeansQuantizer(codebook(501, 32))
    together = quantizer.codes(FEATURES)
    assert [int(quantizer.codes(frame[None])[0]) for frame in FEATURES] == together.tolist()
    assert len(quantizer.codes(FEATURES[:0])) == 0


@pytest.mark.parametrize("form", ["numpy", "tensor", "safetensors", "npy"])
def test_k_means_forms_agree(tmp_path: Path, form: str) -> None:
    centroids = codebook(500, 32)
    path = tmp_path / "L11_km500.pt"
    if form == "numpy":
        torch.save({"cluster_centers": centroids, "n_clusters": 500}, path)
    elif form == "tensor":
        torch.save({"cluster_centers": torch.from_numpy(centroids), "n_clusters": 500}, path)
    elif form == "safetensors":
        path = path.with_suffix(".safetensors")
        save_file({"centroids": centroids}, str(path))
    else:
        path = path.with_suffix(".npy")
        np.save(path, centroids)
    quantizer = load_quantizer(path)
    assert quantizer.codes(FEATURES).tolist() == KMeansQuantizer(centroids).codes(FEATURES).tolist()
    assert (quantizer.num_units, quantizer.dim, quantizer.blank) == (500, 32, None)


def test_standardisation_is_part_of_the_codebook(tmp_path: Path) -> None:
    mean, std = np.full(32, 3, np.float32), np.linspace(0.5, 4, 32).astype(np.float32)
    save_file({"centroids": codebook(20, 32), "mean": mean, "std": std}, str(tmp_path / "codebook.safetensors"))
    quantizer = load_quantizer(tmp_path / "codebook.safetensors")
    expected = KMeansQuantizer(codebook(20, 32)).codes((FEATURES - mean) / std)
    assert quantizer.codes(FEATURES).tolist() == expected.tolist()


class Malice:
    """Touches a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.target,))


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_code_in_a_pickle_is_not_run(tmp_path: Path, how: str) -> None:
    path, target = tmp_path / "L11_km500.bin", tmp_path / "touched"
    content = {"cluster_centers": codebook(500, 32), "n_clusters": 500, "extra": Malice(target)}
    if how == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    with pytest.raises(LstError, match=r"more than data|cannot be read") as caught:
        load_quantizer(path)
    assert "cluster_centers_" in caught.value.hint
    assert not target.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"cluster_centers": codebook(5, 4), "n_clusters": 6}, "says 6 clusters, but holds 5"),
        ({"cluster_centers": codebook(5, 4)[0], "n_clusters": 4}, "holds no codebook"),
        ({"cluster_centers": np.full((5, 4), np.nan), "n_clusters": 5}, "not finite"),
        ({"weights": torch.zeros(3)}, "neither a k-means codebook nor a linear quantizer"),
        ([1, 2], "neither"),
        ({**linear_quantizer(), "model_cfg": {"vocab_size": 500}}, "'dim' is missing"),
        ({**linear_quantizer(), "model_cfg": {"vocab_size": 500, "dim": 32, "upstream_dim": 768}}, "a layer has shape"),
    ],
)
def test_wrong_quantizers_are_refused(tmp_path: Path, content: object, message: str) -> None:
    torch.save(content, tmp_path / "quantizer.pt")
    with pytest.raises(LstError, match=message):
        load_quantizer(tmp_path / "quantizer.pt")


@pytest.mark.parametrize("name", ["codebook.safetensors", "codebook.npy", "codebook.pt"])
def test_damaged_files_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x80\x02garbage" * 9)
    with pytest.raises(LstError, match=f"{name}.*(damaged|more than data|cannot be read)"):
        load_quantizer(tmp_path / name)


def test_wrong_standardisation_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "codebook.safetensors"
    save_file({"centroids": codebook(5, 4), "mean": np.zeros(3, np.float32)}, str(path))
    with pytest.raises(LstError, match="`mean` has shape"):
        load_quantizer(path)
    save_file({"centroids": codebook(5, 4), "mean": np.zeros(4, np.float32), "std": np.zeros(4, np.float32)}, str(path))
    with pytest.raises(LstError, match="standard deviation of zero"):
        load_quantizer(path)
    save_file({"vectors": codebook(5, 4)}, str(path))
    with pytest.raises(LstError, match="holds no codebook"):
        load_quantizer(path)


def test_a_prediction_head_is_an_argmax_without_a_blank(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    random = np.random.default_rng(0)
    weight, bias = random.standard_normal((7, 5)).astype(np.float32), random.standard_normal(7).astype(np.float32)
    save_file({"weight": weight, "bias": bias}, tmp_path / "c.safetensors")
    head = load_quantizer(tmp_path / "c.safetensors")
    frames = random.standard_normal((50, 5))
    assert (head.dim, head.num_units, head.blank) == (5, 7, None)
    assert np.array_equal(head.codes(frames), (frames @ weight.T + bias).argmax(axis=1))
    for wrong in ({"weight": weight}, {"weight": weight, "bias": bias[:3]}, {"weight": weight * np.nan, "bias": bias}):
        save_file(wrong, tmp_path / "c.safetensors")
        with pytest.raises(LstError, match="prediction head"):
            load_quantizer(tmp_path / "c.safetensors")
