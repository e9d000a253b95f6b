"""Benchmarks, one module each; see `nasplat.benchmark` for the contract."""

from nasplat.registry import BENCHMARKS

BENCHMARKS.register("classification", "nasplat.benchmarks.classification:Classification")
BENCHMARKS.register("generation", "nasplat.benchmarks.generation:Generation")
BENCHMARKS.register("nasbench101", "nasplat.benchmarks.nasbench101:NASBench101Table")
BENCHMARKS.register("nasbench201", "nasplat.benchmarks.nasbench201:NASBench201Table")
BENCHMARKS.register("super_resolution", "nasplat.benchmarks.super_resolution:SuperResolution")
BENCHMARKS.register("super_resolution_table", "nasplat.benchmarks.super_resolution_table:SuperResolutionTable")
BENCHMARKS.register("zero_cost", "nasplat.benchmarks.zero_cost:ZeroCost")
