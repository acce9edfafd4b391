"""Open weights behind a vLLM server, with LoRA adapters that come and go while it serves.

model = load_model("vllm:./model", command="/opt/vllm")                 # starts a server at the first call
model = load_model("vllm:./model", base_url="http://host:8000/v1")      # asks one that runs
other = await model.adapted(folder)                                     # the same server; both can be used

async with VLLMServer("./model", command="/opt/vllm") as server:        # in your own hands
    model = VLLMModel(server)
    name = await server.load(folder)                                    # whet-<first 12 digits of its version>
    await server.unload(name)                                           # once the last request under it is done
"""

from whet.core.models.vllm.endpoint import Lora, VLLMEndpoint
from whet.core.models.vllm.model import VLLMModel, load_vllm
from whet.core.models.vllm.server import VLLMServer

__all__ = ["Lora", "VLLMEndpoint", "VLLMModel", "VLLMServer", "load_vllm"]
