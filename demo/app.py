"""The page of `cpsl demo` as a Space of the Hugging Face Hub; its variables name the models."""

import os

from modeling_cpsl.experiments.demo import serve


if __name__ == "__main__":
    # A Space shows what listens on port 7860 of all its addresses.
    serve(os.environ["CPSL_MODEL"], asr=os.environ.get("CPSL_ASR"), host="0.0.0.0", port=7860)
