"""Regression trees as arrays: converted from scikit-learn, stored without pickle, evaluated by onnxruntime."""

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

LEAF = -1
"""The feature index of a leaf, and the child index of a leaf."""
ROWS = 8192
"""Number of rows that one thread evaluates at a time."""
THREADS = 8
"""Maximum number of threads."""

Evaluate: TypeAlias = Callable[[NDArray[np.float32]], NDArray[np.float64]]
"""From features `[n, features]` to outputs `[n, outputs]`."""


@dataclass(frozen=True, slots=True, eq=False)
class Trees:
    """An ensemble of regression trees, whose outputs are summed.

    At a node with a feature, a row goes left if its feature is at most the threshold, else right. The nodes of a tree
    are contiguous, with the root first and every node before its children.

    Args:
        feature: The index of the feature to compare, or `LEAF`, `[nodes]`.
        threshold: The threshold of the comparison, `[nodes]`.
        left: The index of the left child, counted from the tree's root, `[nodes]`.
        right: The index of the right child, counted from the tree's root, `[nodes]`.
        value: The value that a leaf adds to the outputs, `[nodes, outputs]`.
        starts: The index of each tree's root, `[trees]`.
    """

    feature: NDArray[np.int32]
    threshold: NDArray[np.float32]
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    value: NDArray[np.float32]
    starts: NDArray[np.int64]

    @classmethod
    def of_sklearn(cls, trees: Sequence[Any], value: Callable[[Any], NDArray[np.float64]]) -> "Trees":
        """Convert the trees of a scikit-learn ensemble; every decision stays the same.

        scikit-learn compares features in single precision with thresholds in double precision. Thresholds are rounded
        down to single precision. This changes no decision, since no feature in single precision lies between a
        threshold and its rounded value.

        Args:
            trees: The attribute ``tree_`` of each estimator.
            value: Returns the values that the nodes of a tree add, `[nodes, outputs]`.
        """
        counts = [tree.node_count for tree in trees]
        feature = np.concatenate([np.where(tree.children_left == LEAF, LEAF, tree.feature) for tree in trees])
        return cls(
            feature=feature.astype(np.int32),
            threshold=np.where(feature == LEAF, 0, rounded_down(np.concatenate([tree.threshold for tree in trees]))),
            left=np.concatenate([tree.children_left for tree in trees]).astype(np.int32),
            right=np.concatenate([tree.children_right for tree in trees]).astype(np.int32),
            value=np.concatenate([value(tree) for tree in trees]).astype(np.float32),
            starts=np.cumsum([0, *counts[:-1]], dtype=np.int64),
        )

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The fields by name, for a file."""
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> "Trees":
        """Make the trees from the arrays of a file.

        Raises:
            KeyError: An array is missing.
            ValueError: The arrays are not valid trees.
        """
        trees = cls(**{name: arrays[name] for name in cls.__slots__})
        trees._check()
        return trees

    def evaluator(self, base: Sequence[float]) -> Evaluate:
        """A function that evaluates the trees; the result of a row does not depend on other rows.

        Args:
            base: The constant that is added to each output.
        """
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # with more, the order of sums depends on the number of rows
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(self._onnx(), options, providers=["CPUExecutionProvider"])
        shift = np.array(base, dtype=np.float64)

        def run(rows: NDArray[np.float32]) -> NDArray[np.float64]:
            outputs: NDArray[np.float64] = session.run(None, {"features": rows})[0].astype(np.float64) + shift
            return outputs

        def evaluate(features: NDArray[np.float32]) -> NDArray[np.float64]:
            pieces = [features[i : i + ROWS] for i in range(0, len(features), ROWS)]
            if len(pieces) < 2:
                return run(features)
            with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as threads:
                return np.concatenate(list(threads.map(run, pieces)))

        return evaluate

    def _onnx(self) -> bytes:
        """The trees as an ONNX model, with the tree-ensemble operator of onnxruntime."""
        from onnx import TensorProto, helper

        trees = np.repeat(np.arange(len(self.starts)), self._sizes())
        nodes = np.arange(len(self.feature)) - self.starts[trees]
        leaf = self.feature == LEAF
        (leaves,) = np.nonzero(leaf)
        outputs = self.value.shape[1]
        node = helper.make_node(
            "TreeEnsembleRegressor",
            ["features"],
            ["sums"],
            domain="ai.onnx.ml",
            n_targets=outputs,
            aggregate_function="SUM",
            nodes_treeids=trees.tolist(),
            nodes_nodeids=nodes.tolist(),
            nodes_featureids=np.where(leaf, 0, self.feature).tolist(),
            nodes_modes=np.where(leaf, "LEAF", "BRANCH_LEQ").tolist(),
            nodes_values=self.threshold.tolist(),
            nodes_truenodeids=np.where(leaf, 0, self.left).tolist(),
            nodes_falsenodeids=np.where(leaf, 0, self.right).tolist(),
            target_treeids=np.repeat(trees[leaves], outputs).tolist(),
            target_nodeids=np.repeat(nodes[leaves], outputs).tolist(),
            target_ids=np.tile(np.arange(outputs), len(leaves)).tolist(),
            target_weights=self.value[leaves].ravel().tolist(),
        )
        graph = helper.make_graph(
            [node],
            "trees",
            [helper.make_tensor_value_info("features", TensorProto.FLOAT, [None, None])],
            [helper.make_tensor_value_info("sums", TensorProto.FLOAT, [None, outputs])],
        )
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
        model: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
        return model

    def _sizes(self) -> NDArray[np.int64]:
        return np.diff(np.append(self.starts, len(self.feature)))

    def _check(self) -> None:
        """Check that children exist and that there are no cycles."""
        n = len(self.feature)
        shapes = {self.feature.shape, self.threshold.shape, self.left.shape, self.right.shape, self.value.shape[:1]}
        if shapes != {(n,)} or self.value.ndim != 2 or n == 0:
            raise ValueError(f"arrays of trees must have one element for each node, but their shapes are {shapes}")
        if len(self.starts) == 0 or self.starts[0] != 0 or (self._sizes() < 1).any():
            raise ValueError("trees must follow each other, the first at 0, and none may be empty")
        trees = np.repeat(np.arange(len(self.starts)), self._sizes())
        nodes, inner = np.arange(n) - self.starts[trees], self.feature != LEAF
        for child in (self.left, self.right):
            if not ((child > nodes) & (child < self._sizes()[trees]))[inner].all():
                raise ValueError("a child must come after its parent, within its tree")
        if (self.feature < LEAF).any() or not (np.isfinite(self.threshold).all() and np.isfinite(self.value).all()):
            raise ValueError("features of trees must be counted from 0, and thresholds and values must be finite")


def rounded_down(numbers: NDArray[np.float64]) -> NDArray[np.float32]:
    """For each number the largest single-precision number that is not greater."""
    single = numbers.astype(np.float32)
    return np.where(single > numbers, np.nextafter(single, np.float32(-np.inf)), single)
