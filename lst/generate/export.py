"""A model for Hugging Face's transformers: `AutoModelForCausalLM.from_pretrained(DIR)`.

A base model becomes a plain `LlamaForCausalLM`. An LST comes with `modeling_lst.py`, which needs the `lst` package and
`trust_remote_code=True`. Both hold safetensors and the text tokenizer.
"""

import shutil
from pathlib import Path
from typing import Any

from lst.errors import LstError
from lst.manifest import explain_os_errors, write_json

CODE = "modeling_lst.py"


def export_model(directory: Path, out: Path) -> Path:
    """Write the model in `directory` (made by lst) into the new directory `out` and return it.

    Raises LstError if `out` holds something, or if the model cannot be loaded.
    """
    from safetensors.torch import save_file

    from lst.model.checkpoint import TOKENIZER_FILE, load_model
    from lst.model.llama import llama_files

    if out.is_dir() and any(out.iterdir()):
        raise LstError(f"{out} is not empty.", hint="Choose another --out.")
    loaded = load_model(directory)
    if loaded.config.is_base:
        body, tensors = llama_files(loaded.model)
    else:
        body = _remote_config(loaded.config.as_json(), loaded.vocabulary.size, loaded.vocabulary.end)
        # Copies: safetensors refuses tensors that share memory, as tied ones do.
        tensors = {f"lst.{name}": value.clone() for name, value in loaded.model.state_dict().items()}
        body["torch_dtype"] = str(next(iter(tensors.values())).dtype).removeprefix("torch.")
    with explain_os_errors(f"writing {out}"):
        out.mkdir(parents=True, exist_ok=True)
        save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
        shutil.copyfile(loaded.tokenizer_path, out / TOKENIZER_FILE)
        if not loaded.config.is_base:
            shutil.copyfile(Path(__file__).with_name("huggingface.py"), out / CODE)
        write_json(out / "config.json", body)
    return out


def _remote_config(lst: dict[str, Any], vocabulary: int, end: int) -> dict[str, Any]:
    module = CODE.removesuffix(".py")
    return {
        "architectures": ["LSTForCausalLM"],
        "auto_map": {
            "AutoConfig": f"{module}.LSTTransformersConfig",
            "AutoModelForCausalLM": f"{module}.LSTForCausalLM",
        },
        "model_type": "lst",
        "vocab_size": vocabulary,
        "eos_token_id": end,
        "use_cache": False,
        "lst": lst,
    }
