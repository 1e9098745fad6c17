# SPDX-License-Identifier: Apache-2.0
"""The part of psa.h that benchmarks call, over torch tensors on the CPU or on a CUDA device.

    psa = Psa("build/cuda-release/src/libpsa.so")
    call = psa.prepare(q, k, v, out, config={"rule": "quota", "budget": (.1, .15, .15, .35)})
    call()           # one psa_forward
    call.stats()     # one more, with its density and the time of each stage
"""
import ctypes

import torch

DTYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
NAMES = {
    "rule": ("quota", "threshold"),
    "rest": ("skip", "mean", "linear"),
    "importance": ("sampled_max", "sampled_mass", "antidiagonal", "pooled_lse", "user_scores"),
    "reorder": ("none", "gilbert", "tile3d", "kmeans", "hybrid"),
}
SIDES = ("front", "back")
INT32, INT64, FLOAT, POINTER = ctypes.c_int32, ctypes.c_int64, ctypes.c_float, ctypes.c_void_p


def fields(kind, names):
    return [(name, kind) for name in names.split()]


class Tensor(ctypes.Structure):
    _fields_ = ([("data", POINTER)] + fields(INT32, "dtype device_type device_index reserved")
                + [("shape", INT64 * 4), ("stride", INT64 * 4)])


class Problem(ctypes.Structure):
    _fields_ = ([("struct_size", ctypes.c_uint32)] + fields(INT32, "dtype_q dtype_kv dtype_out")
                + fields(INT64, "batch heads_q heads_kv len_q len_kv head_dim grid_frames "
                                "grid_height grid_width text_tokens")
                + fields(INT32, "text_side device_type device_index reserved"))


class Config(ctypes.Structure):
    _fields_ = ([("struct_size", ctypes.c_uint32)]
                + fields(INT32, "block_q block_kv rule num_levels") + [("budget", FLOAT * 5)]
                + fields(INT32, "rest min_full_blocks importance samples_q samples_kv "
                                "antidiagonal_stride pooled_tokens")
                + [("seed", ctypes.c_uint64), ("use_similarity_cap", INT32),
                   ("min_cosine", FLOAT * 4)]
                + fields(INT32, "text_keys_full text_queries_full sink_blocks share_group_map "
                                "reorder")
                + [("tile", INT32 * 3)]
                + fields(INT32, "clusters_q clusters_kv kmeans_iterations causal")
                + [("softmax_scale", FLOAT), ("compat", INT32), ("head_density", POINTER),
                   ("num_head_densities", INT64)])


class Io(ctypes.Structure):
    _fields_ = ([("struct_size", ctypes.c_uint32), ("reserved", INT32), ("q", Tensor),
                 ("k", Tensor), ("v", Tensor), ("out", Tensor)]
                + fields(POINTER, "lse kv_lengths scores levels levels_out"))


class Options(ctypes.Structure):
    _fields_ = ([("struct_size", ctypes.c_uint32), ("num_threads", INT32),
                 ("backend", ctypes.c_char_p), ("isa", ctypes.c_char_p)]
                + fields(POINTER, "parallel_for parallel_context"))


class Stats(ctypes.Structure):
    _fields_ = ([("struct_size", ctypes.c_uint32), ("reserved", INT32)]
                + fields(ctypes.c_double, "density selection_cost") + [("blocks", INT64 * 7)]
                + fields(ctypes.c_double, "reorder_ms pyramid_ms importance_ms levels_ms "
                                          "attention_ms"))


def view(t):
    is_cuda = t.device.type == "cuda"
    return Tensor(t.data_ptr(), DTYPES[t.dtype], int(is_cuda), t.device.index or 0, 0,
                  (INT64 * 4)(*t.shape), (INT64 * 4)(*t.stride()))


class Call:
    """One prepared psa_forward; keeps its tensors, plan and workspace alive."""

    def __init__(self, psa, plan, io, tensors):
        self.psa, self.plan, self.io, self.tensors = psa, plan, io, tensors
        size = ctypes.c_size_t()
        psa.check(psa.lib.psa_plan_workspace_size(plan, ctypes.byref(size)))
        self.workspace_bytes = size.value
        self.workspace = torch.empty(size.value + 256, dtype=torch.uint8, device=tensors[0].device)
        base = (self.workspace.data_ptr() + 255) // 256 * 256
        stream = None
        if tensors[0].is_cuda:
            stream = ctypes.c_void_p(torch.cuda.current_stream(tensors[0].device).cuda_stream)
        self.arguments = (plan, ctypes.byref(io), ctypes.c_void_p(base), size, stream)

    def __call__(self):
        self.psa.check(self.psa.lib.psa_forward(*self.arguments, None))

    def stats(self):
        stats = Stats()
        self.psa.lib.psa_stats_init(ctypes.byref(stats))
        self.psa.check(self.psa.lib.psa_forward(*self.arguments, ctypes.byref(stats)))
        return stats

    def describe(self):
        text = ctypes.create_string_buffer(4096)
        self.psa.check(self.psa.lib.psa_plan_describe(self.plan, text, 4096, None))
        return text.value.decode()

    def __del__(self):
        self.psa.lib.psa_plan_destroy(self.plan)


class Psa:
    def __init__(self, path):
        self.lib = ctypes.CDLL(path)
        self.lib.psa_last_error.restype = ctypes.c_char_p
        self.lib.psa_plan_destroy.restype = None

    def check(self, status):
        if status != 0:
            raise RuntimeError(self.lib.psa_last_error().decode())

    def config(self, settings):
        """psa_config with `settings` (names as strings); `density` sets the default split."""
        config = Config()
        self.lib.psa_config_init(ctypes.byref(config))
        for name, value in settings.items():
            if name == "density":
                continue
            if name == "budget":
                config.num_levels = len(value)
                value = (FLOAT * 5)(*value, *([value[-1]] * (5 - len(value))))
            elif isinstance(value, str):
                value = NAMES[name].index(value)
            setattr(config, name, value)
        if "density" in settings:
            self.check(self.lib.psa_config_set_density(ctypes.byref(config),
                                                       ctypes.c_double(settings["density"])))
        return config

    def prepare(self, q, k, v, out, config, grid=(0, 0, 0), text=0, text_side="front", threads=0,
                backend="auto"):
        """A Call on [B, H, L, D] tensors."""
        problem, io, options, plan = Problem(), Io(), Options(), POINTER()
        self.lib.psa_problem_init(ctypes.byref(problem))
        self.lib.psa_io_init(ctypes.byref(io))
        self.lib.psa_plan_options_init(ctypes.byref(options))
        options.num_threads, options.backend = threads, backend.encode()
        problem.batch, problem.heads_q, problem.len_q, problem.head_dim = q.shape
        problem.heads_kv, problem.len_kv = k.shape[1], k.shape[2]
        problem.dtype_q = problem.dtype_kv = problem.dtype_out = DTYPES[q.dtype]
        problem.grid_frames, problem.grid_height, problem.grid_width = grid
        problem.text_tokens, problem.text_side = text, SIDES.index(text_side)
        io.q, io.k, io.v, io.out = view(q), view(k), view(v), view(out)
        problem.device_type, problem.device_index = io.q.device_type, io.q.device_index
        self.check(self.lib.psa_plan_create(ctypes.byref(problem), ctypes.byref(self.config(config)),
                                            ctypes.byref(options), ctypes.byref(plan)))
        return Call(self, plan, io, (q, k, v, out))
