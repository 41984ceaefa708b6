"""The plain text encoder of a trained model, for use without this package."""

from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from data_builders.files import DataError, new_folder


def write_encoder(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, out: Path) -> None:
    """Writes the text encoder of a CPSL model and its tokenizer as a folder that `AutoModel` loads.

    The weights are the model's, bit for bit. BERT and MPNet come without a pooler, which a CPSL model does not have.

    Args:
        model: A CPSL model, whose text encoder then has the plain configuration.
        tokenizer: Its tokenizer.
        out: The folder to make.

    Raises:
        DataError: The model reads no text.
        FileExistsError: The folder is there already.
        WriteError: It could not be written.
    """
    if not model.config.use_text:
        raise DataError(f"{model.name_or_path}: it reads no text, so it has no text encoder; name a model that does")
    encoder = model.base_model
    encoder.config = model.config.backbone_config()
    with new_folder(out) as folder:
        encoder.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


__all__ = ["write_encoder"]
