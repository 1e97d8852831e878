import numpy as np
import pytest
import scipy.sparse as sp
import torch
import yaml
from anndata import AnnData
from safetensors.torch import load_file, save_file

from stmcdi_cli.errors import InputError
from stmcdi_cli.model import save_load
from stmcdi_cli.model.attention.model import AttentionModel
from stmcdi_cli.model.base import DrawOptions
from stmcdi_cli.model.tissue import Tissue

CPU = torch.device("cpu")
CONFIG = {
    "variant": "attention",
    "diffusion": {"T": 10, "beta_1": 1e-4, "beta_T": 0.5},
    "network": {
        "layers": 1,
        "channels": 4,
        "heads": 2,
        "step_embedding": 8,
        "gene_embedding": 2,
        "hops": 1,
        "graph_hidden": 4,
        "graph_condition": 3,
    },
    "masking": {"hidden": (0.1, 0.9), "validation": 0.1, "folds": 2},
    "training": {"epochs": 2, "batch_size": 8, "lr": 1e-3, "lr_drops": ((0.5, 1e-4),)},
}
GENES = ("Actb", "Gad1", "Sox2", "no", "1")  # YAML would read the last two as a truth value and a number


def tissue(genes=GENES):
    x = sp.random(12, len(genes), 0.6, format="csr", dtype=np.float32, random_state=0)
    graph = sp.csr_matrix(np.roll(np.eye(12, dtype=np.float32), 1, 1) + np.roll(np.eye(12, dtype=np.float32), -1, 1))
    adata = AnnData(x)
    adata.var_names = genes
    adata.obsp["spatial_connectivities"] = graph
    adata.obsm["spatial"] = np.zeros((12, 2))
    return Tissue.from_anndata(adata)


@pytest.fixture
def saved(tmp_path):
    model = save_load.build(CONFIG, GENES)
    rows = []
    model.fit(tissue(), seed=0, device=CPU, report=rows.append)
    save_load.save(model, tmp_path / "model", rows)
    return tmp_path / "model", model


def test_a_loaded_model_draws_the_same_bits(saved):
    path, model = saved
    loaded = save_load.load(path)
    assert isinstance(loaded, AttentionModel)
    assert loaded.genes == GENES
    options, draws = DrawOptions(n_samples=2, seed=0, sampler="ddim", n_steps=3, denoise=True), []
    for each in (model, loaded):
        each.prepare(tissue(), device=CPU)
        draws.append(each.draw(np.arange(12), options).samples)
    assert draws[0].tobytes() == draws[1].tobytes()


def test_folder_holds_three_files_and_no_leftovers(saved):
    path, model = saved
    assert sorted(p.name for p in path.iterdir()) == ["config.yaml", "history.tsv", "model.safetensors"]
    assert [p.name for p in path.parent.iterdir()] == ["model"]
    lines = (path / "history.tsv").read_text().splitlines()
    assert lines[0].split("\t") == ["epoch", "loss", "lr", "validation_loss"]
    assert len(lines) == 3
    save_load.save(model, path, [])  # again, over itself
    assert [p.name for p in path.parent.iterdir()] == ["model"]
    save_load.load(path)


def test_a_failed_save_leaves_the_old_model(saved, monkeypatch):
    path, model = saved
    before = (path / "model.safetensors").read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(save_load, "as_bytes", fail)
    with pytest.raises(InputError, match="disk full"):
        save_load.save(model, path, [])
    assert (path / "model.safetensors").read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["model"]


def test_other_folders_are_not_replaced(saved, tmp_path):
    _, model = saved
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "precious.h5ad").touch()
    with pytest.raises(InputError, match="is not a model folder"):
        save_load.save(model, tmp_path / "data", [])
    assert (tmp_path / "data" / "precious.h5ad").exists()


def edit(path, **changes):
    config = yaml.safe_load((path / "config.yaml").read_text())
    config.update(changes)
    (path / "config.yaml").write_text(yaml.safe_dump(config))


def rename_tensor(path):
    state = load_file(path / "model.safetensors")
    state["network.other"] = state.pop("network.genes")
    save_file(state, path / "model.safetensors")


def drop_tensor(path):
    state = load_file(path / "model.safetensors")
    del state["scale.mean"]
    save_file(state, path / "model.safetensors")


DAMAGE = {
    "no folder": (lambda p: p.rename(p.with_name("gone")), "no model folder"),
    "no weights": (lambda p: (p / "model.safetensors").unlink(), "has no model.safetensors"),
    "no config": (lambda p: (p / "config.yaml").unlink(), "has no config.yaml"),
    "cut weights": (lambda p: (p / "model.safetensors").write_bytes(b"\x01\x02"), "does not fit"),
    "unknown variant": (lambda p: edit(p, variant="gan"), "unknown model variant 'gan'; expected one of attention"),
    "other shapes": (lambda p: edit(p, genes=["a", "b"]), "does not fit"),
    "other names": (rename_tensor, "does not fit"),
    "no scale": (drop_tensor, "does not fit.*scale.mean"),
    "code in yaml": (
        lambda p: (p / "config.yaml").write_text("!!python/object/apply:os.system ['touch /tmp/owned']"),
        "is not a model's configuration",
    ),
    "no known scale": (lambda p: edit(p, config={"scale": {"log1p": 1}}), "is not a model's configuration: `scale` is"),
    "no yaml": (lambda p: (p / "config.yaml").write_text("just words"), "is not a model's configuration"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_refused_in_one_line(saved, damage):
    path, _ = saved
    harm, message = DAMAGE[damage]
    harm(path)
    with pytest.raises(InputError, match=message) as caught:
        save_load.load(path)
    assert "\n" not in str(caught.value)


def test_other_genes_are_named(saved):
    _, model = saved
    save_load.check_genes(model, tissue())
    with pytest.raises(InputError, match="the data lack Actb; the model does not know Cck"):
        save_load.check_genes(model, tissue(("Cck", *GENES[1:])))
    with pytest.raises(InputError, match="another order"):
        save_load.check_genes(model, tissue(GENES[::-1]))
    with pytest.raises(InputError, match="the model does not know x0, x1, x2 and 7 more"):
        save_load.check_genes(model, tissue((*GENES, *(f"x{i}" for i in range(10)))))
