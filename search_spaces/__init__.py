"""Search spaces, one module each; see `nasplat.search_space` for the contract."""

from nasplat.registry import SEARCH_SPACES

SEARCH_SPACES.register("darts", "nasplat.search_spaces.darts:DARTS")
SEARCH_SPACES.register("esrn/1m", "nasplat.search_spaces.esrn:ESRN1M")
SEARCH_SPACES.register("esrn/light", "nasplat.search_spaces.esrn:ESRNLight")
SEARCH_SPACES.register("esrn/small", "nasplat.search_spaces.esrn:ESRNSmall")
SEARCH_SPACES.register("esrn/tiny", "nasplat.search_spaces.esrn:ESRNTiny")
SEARCH_SPACES.register("generator", "nasplat.search_spaces.generator:ImageGenerators")
SEARCH_SPACES.register("generator/linear", "nasplat.search_spaces.generator:LinearGenerators")
SEARCH_SPACES.register("ghost/cifar", "nasplat.search_spaces.ghost:GhostCIFAR")
SEARCH_SPACES.register("ghost/imagenet", "nasplat.search_spaces.ghost:GhostImageNet")
SEARCH_SPACES.register("ghost/small", "nasplat.search_spaces.ghost:GhostSmall")
SEARCH_SPACES.register("nasbench101", "nasplat.search_spaces.nasbench101:NASBench101")
SEARCH_SPACES.register("nasbench201", "nasplat.search_spaces.nasbench201:NASBench201")
