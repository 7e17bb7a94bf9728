package outofmemory

import "strings"

// phrase is what one engine says of a card that is full.
type phrase struct {
	engine string
	// says is compared without regard to case. In it # stands for a number and *
	// for up to maxGap bytes of the same line. A ~ at its end lets anything
	// follow; otherwise the words must end a clause (endsClause).
	says string
	// whole phrases must be all that a line says.
	whole bool
	// not lists words that must not come in the phrase or in the rest of its
	// line: they tell of main memory.
	not []string
}

// table is what engines say where an allocation on a GPU has failed. A phrase
// comes before those that it contains. The comment names the source: the project
// and the file that has the words, or the library whose error string they are.
//
// Not in the table, because more GPU memory is no cure: main memory (Ollama's
// "model requires more system memory", torch's DefaultCPUAllocator, Java's and
// Ray's OutOfMemoryError) and shared memory of a kernel (Triton's
// OutOfResources).
var table = []phrase{
	// PyTorch.
	// vllm: vllm/v1/worker/gpu_model_runner.py
	{engine: "torch", says: "CUDA out of memory occurred when warming up sampler with # dummy requests"},
	// pytorch: c10/cuda/CUDACachingAllocator.cpp
	{engine: "torch", says: "CUDA out of memory"},
	// pytorch: c10/cuda/CUDAException.cpp (AcceleratorError since 2.8); ggml: src/ggml-cuda/ggml-cuda.cu; vllm: csrc/cumem_allocator.cpp
	{engine: "torch", says: "CUDA error: out of memory"},
	// pytorch: c10/cuda/driver_api.h
	{engine: "torch", says: "CUDA driver error: out of memory"},
	// pytorch before 1.5: aten/src/THC/THCGeneral.cpp
	{engine: "torch", says: "cuda runtime error (2) : out of memory"},
	// pytorch: c10/cuda/CUDAMallocAsyncAllocator.cpp
	{engine: "torch", says: "Allocation on device * would exceed allowed memory. (out of memory)"},
	// pytorch: c10/hip/HIPCachingAllocator.cpp, as hipify makes it
	{engine: "torch", says: "HIP out of memory"},
	// pytorch: c10/hip/HIPException.cpp, as hipify makes it
	{engine: "torch", says: "HIP error: out of memory"},
	// pytorch: c10/xpu/XPUCachingAllocator.cpp
	{engine: "torch", says: "XPU out of memory"},
	// Ascend/pytorch: torch_npu/csrc/core/npu/NPUCachingAllocator.cpp
	{engine: "torch", says: "NPU out of memory"},
	// pytorch: aten/src/ATen/mps/MPSAllocator.mm
	{engine: "torch", says: "MPS backend out of memory"},
	// Of torch, torch.cuda, cupy.cuda.memory and others; alone in the `error` of
	// AUTOMATIC1111 (modules/api/api.py) and in ComfyUI's exception_type
	// (execution.py).
	// pytorch: torch/csrc/Exceptions.cpp
	{engine: "torch", says: typeName},

	// CUDA, HIP, their libraries.
	// CUDA driver: cuGetErrorName
	{engine: "cuda", says: "CUDA_ERROR_OUT_OF_MEMORY"},
	// rapidsai/rmm: cpp/include/rmm/detail/error.hpp
	{engine: "cuda", says: "cudaErrorMemoryAllocation out of memory"},
	// CUDA runtime: cudaGetErrorName
	{engine: "cuda", says: "cudaErrorMemoryAllocation"},
	// ROCm/clr: hipGetErrorName
	{engine: "hip", says: "hipErrorOutOfMemory"},
	// ROCm/clr before 6: hipGetErrorName
	{engine: "hip", says: "hipErrorMemoryAllocation"},
	// pytorch: aten/src/ATen/cuda/CUDABlas.cpp
	{engine: "cublas", says: "CUBLAS_STATUS_ALLOC_FAILED"},
	// ROCm/hipBLAS: hipblasStatusToString
	{engine: "cublas", says: "HIPBLAS_STATUS_ALLOC_FAILED"},
	// cuDNN up to 8: cudnnGetErrorString; pytorch: aten/src/ATen/cudnn/Exceptions.h
	{engine: "cudnn", says: "CUDNN_STATUS_ALLOC_FAILED"},
	// cuDNN 9: cudnn_graph.h
	{engine: "cudnn", says: "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"},
	// pytorch: aten/src/ATen/cuda/Exceptions.cpp
	{engine: "cuda", says: "CUSOLVER_STATUS_ALLOC_FAILED"},
	// pytorch: aten/src/ATen/native/cuda/CuFFTUtils.h
	{engine: "cuda", says: "CUFFT_ALLOC_FAILED"},
	// cuSPARSE: cusparseGetErrorName
	{engine: "cuda", says: "CUSPARSE_STATUS_ALLOC_FAILED"},
	// triton-lang/triton: third_party/nvidia/backend/driver.c, third_party/amd/backend/driver.c
	{engine: "cuda", says: "Triton Error [CUDA]: out of memory"},
	{engine: "hip", says: "Triton Error [HIP]: * out of memory"},
	// apache/tvm (MLC): src/runtime/cuda/cuda_common.h
	{engine: "tvm", says: "CUDA: out of memory"},
	// NVIDIA/nccl: src/include/checks.h
	{engine: "nccl", says: "Cuda failure # 'out of memory'"},
	// NVIDIA/nccl before 2.21: src/include/checks.h
	{engine: "nccl", says: "Cuda failure 'out of memory'"},
	// NVIDIA/nccl: src/include/alloc.h
	{engine: "nccl", says: "Failed to CUDA calloc # bytes"},
	{engine: "nccl", says: "Failed to CUDA calloc async # bytes"},
	{engine: "nccl", says: "Failed to CUDA malloc # bytes"},
	// cupy: cupy/cuda/memory.pyx
	{engine: "cupy", says: "Out of memory allocating # bytes (allocated so far~"},

	// ONNX Runtime.
	// onnxruntime: onnxruntime/core/framework/bfc_arena.cc
	{engine: "onnxruntime", says: "Failed to allocate memory for requested buffer of size #"},
	{engine: "onnxruntime", says: "Available memory of # is smaller than requested bytes of #"},
	{engine: "onnxruntime", says: "BFC Arena ran out of memory trying to allocate #"},
	// onnxruntime: onnxruntime/core/providers/cuda/cuda_call.cc
	{engine: "onnxruntime", says: "CUDA failure 2: out of memory"},
	// onnxruntime: the DirectML provider; Windows: E_OUTOFMEMORY
	{engine: "onnxruntime", says: "8007000E Not enough memory resources are available~"},

	// llama.cpp and what is made of it.
	// ggml: src/ggml-cuda/ggml-cuda.cu
	{engine: "llama.cpp", says: "cudaMalloc failed: out of memory"},
	// ollama: llm/status.go
	{engine: "llama.cpp", says: "hipMalloc failed: out of memory"},
	// ggml: src/ggml-cuda/ggml-cuda.cu, GGML_CUDA_NAME
	{engine: "llama.cpp", says: "ROCm error: out of memory"},
	{engine: "llama.cpp", says: "MUSA error: out of memory"},
	// ggml: src/ggml-alloc.c, src/ggml-backend.cpp
	{engine: "llama.cpp", says: "failed to allocate * buffer of size #", not: hostBuffers},
	// llama.cpp: src/llama-model.cpp
	{engine: "llama.cpp", says: "unable to allocate * buffer", not: hostBuffers},
	// llama.cpp: src/llama-kv-cache.cpp
	{engine: "llama.cpp", says: "failed to allocate buffer for kv cache"},
	// llama.cpp: src/llama-context.cpp
	{engine: "llama.cpp", says: "failed to allocate compute buffers"},
	{engine: "llama.cpp", says: "failed to allocate compute pp buffers"},
	// ggml: src/ggml-vulkan/ggml-vulkan.cpp
	{engine: "llama.cpp", says: "Device memory allocation of size # failed"},
	// Vulkan-Hpp: vk::to_string, as ggml-vulkan.cpp prints it
	{engine: "llama.cpp", says: "ErrorOutOfDeviceMemory"},
	// Vulkan: VkResult
	{engine: "llama.cpp", says: "VK_ERROR_OUT_OF_DEVICE_MEMORY"},
	// Metal, as ggml-metal.m and mlx print it; ollama: llm/status.go
	{engine: "llama.cpp", says: "Insufficient Memory (#:kIOGPUCommandBufferCallbackErrorOutOfMemory)"},
	// oneAPI unified runtime: ur_api.h, as ggml-sycl.cpp prints it
	{engine: "llama.cpp", says: "UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY"},
	// Level Zero: ze_api.h
	{engine: "llama.cpp", says: "ZE_RESULT_ERROR_OUT_OF_DEVICE_MEMORY"},
	// whisper.cpp: src/whisper.cpp
	{engine: "whisper.cpp", says: "whisper_kv_cache_init: failed to allocate memory for the kv cache"},
	{engine: "whisper.cpp", says: "failed to allocate memory for the kv cache"},
	// ollama: llm/server.go
	{engine: "ollama", says: "memory layout cannot be allocated~"},
	// ollama: ml/device.go
	{engine: "ollama", says: "insufficient memory - required allocations~"},
	// ollama: llm/server.go
	{engine: "ollama", says: "unable to load full model on GPU"},
	// ollama: llm/llama_server_test.go, the status of llama-server; CUDA runtime: cudaGetErrorString
	{engine: "ollama", says: "out of memory", whole: true},
	// turboderp/exllamav2: exllamav2/model.py
	{engine: "exllama", says: "Insufficient VRAM for model and cache"},

	// Servers of language models.
	// vllm: vllm/v1/core/kv_cache_utils.py
	{engine: "vllm", says: "No available memory for the cache blocks"},
	// vllm: vllm/v1/worker/gpu_worker.py
	{engine: "vllm", says: "Free memory on device * on startup is less than desired GPU memory utilization"},
	// vllm: vllm/v1/core/kv_cache_utils.py
	{engine: "vllm", says: "To serve at least one request * larger than the available KV cache memory"},
	// sglang: python/sglang/srt/mem_cache/common.py
	{engine: "sglang", says: "Prefill out of memory. Try to lower your batch size"},
	{engine: "sglang", says: "Decode out of memory. Try to lower your batch size"},
	// sglang: python/sglang/srt/model_executor/pool_configurator.py
	{engine: "sglang", says: "Not enough memory. Please try to increase --mem-fraction-static"},
	// text-generation-inference: server/text_generation_server/models/flash_causal_lm.py
	{engine: "tgi", says: "Not enough memory to handle # prefill tokens"},
	// text-generation-inference: backends/v3/src/lib.rs
	{engine: "tgi", says: "Not enough memory to handle `max_total_tokens=#`~"},
	// TensorRT-LLM: cpp/include/tensorrt_llm/common/cudaUtils.h
	{engine: "tensorrt-llm", says: "CUDA runtime error in *: out of memory"},
	// FasterTransformer, lmdeploy: src/turbomind/utils/cuda_utils.h
	{engine: "tensorrt-llm", says: "CUDA runtime error: out of memory"},
	// TensorRT: nvinfer, the logger
	{engine: "tensorrt", says: "Requested amount of GPU memory (# bytes) could not be allocated"},
	// TensorRT: nvinfer, ErrorCode::kOUT_OF_MEMORY
	{engine: "tensorrt", says: "Error Code 2: OutOfMemory"},
	// TensorRT: nvinfer, Error Code 1
	{engine: "tensorrt", says: "Cuda Runtime (out of memory)"},
	// triton-inference-server/core: src/cuda_memory_manager.cc
	{engine: "triton", says: "Failed to allocate CUDA memory with byte size # on GPU #"},
	// CTranslate2 (faster-whisper): src/cuda/utils.h
	{engine: "ctranslate2", says: "CUDA failed with error out of memory"},
	// tensorflow: core/framework/op_kernel.cc
	{engine: "tensorflow", says: "OOM when allocating tensor with shape~", not: []string{"device:CPU", "allocator cpu"}},
	// tensorflow: tsl/framework/bfc_allocator.cc
	{engine: "tensorflow", says: "Allocator (GPU*) ran out of memory trying to allocate #"},
	// openxla/xla: xla/tsl/framework/bfc_allocator.cc, behind RESOURCE_EXHAUSTED
	{engine: "jax", says: "Out of memory while trying to allocate #"},
	// openxla/xla before 2021, behind Resource exhausted
	{engine: "jax", says: "Out of memory trying to allocate #"},
	// openxla/xla: xla/pjrt/tfrt_cpu_pjrt_client.cc
	{engine: "jax", says: "RESOURCE_EXHAUSTED: Out of memory allocating #"},
	// openxla/xla: xla/stream_executor/tf_allocator_adapter.cc
	{engine: "jax", says: "Failed to allocate request for #"},
	// openxla/xla, the TPU compiler
	{engine: "jax", says: "Ran out of memory in memory space hbm"},
	// PaddlePaddle: paddle/phi/core/memory/allocation/cuda_allocator.cc
	{engine: "paddle", says: "Out of memory error on GPU #"},

	// Servers of images.
	// ComfyUI: execution.py
	{engine: "comfyui", says: "This error means you ran out of memory on your GPU"},
	// ComfyUI: comfy/model_management.py and torch, what is left of the text of cudaMallocAsync
	{engine: "comfyui", says: "Allocation on device"},
	// AUTOMATIC1111, Forge: modules/sd_hijack_optimizations.py
	{engine: "a1111", says: "Not enough memory, use lower resolution (max approx. ~"},
	// what servers around diffusers make of OutOfMemoryError
	{engine: "diffusers", says: "GPU out of memory"},
}

// hostBuffers name buffers of ggml that are not on a GPU.
var hostBuffers = []string{"CPU", "Host"}

// typeName is the name of an exception class. What stands before it, up to the
// first byte that is no part of a dotted name, belongs to it.
const typeName = "OutOfMemoryError"

// notGPU begin the dotted names of exceptions that tell of main memory.
var notGPU = []string{"java.", "ray.exceptions.", "kotlin.", "scala."}

// maxGap is how many bytes a * stands for at the most.
const maxGap = 160

// byFirst holds the indices into table by the lower-case first byte of says.
var byFirst = func() (first [256][]int) {
	for i, p := range table {
		c := lower(p.says[0])
		first[c] = append(first[c], i)
	}
	return first
}()

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}

// find gives the first phrase of the table in line[at:], and where it stands;
// from -1: there is none. atStart is false where the line's beginning is in fact
// somewhere in the middle of a longer one.
func find(line string, at int, atStart bool) (engine string, from, to int) {
	for i := at; i < len(line); i++ {
		candidates := byFirst[lower(line[i])]
		if len(candidates) == 0 || i > 0 && isWord(line[i-1]) && !isBreak(line[:i]) {
			continue
		}
		for _, n := range candidates {
			p := &table[n]
			length := p.match(line[i:])
			if length < 0 {
				continue
			}
			from, to := i, i+length
			if p.says == typeName {
				if from = nameStart(line, i); from < at || isHostName(line[from:i]) {
					continue
				}
			}
			if p.whole && (!atStart || strings.Trim(line[:from]+line[to:], " .!\t\r") != "") {
				continue
			}
			if startsClause(line, from, atStart) && (p.isOpen() || endsClause(line, to)) && !p.isHost(line[from:]) {
				return p.engine, from, to
			}
		}
	}
	return "", -1, -1
}

// isOpen says that anything may follow the phrase.
func (p *phrase) isOpen() bool {
	return strings.HasSuffix(p.says, "~") || strings.HasSuffix(p.says, "#")
}

func (p *phrase) isHost(rest string) bool {
	rest = rest[:min(len(rest), 2*maxGap)]
	for _, word := range p.not {
		if strings.Contains(rest, word) {
			return true
		}
	}
	return false
}

// match gives the length of the phrase at the beginning of text, -1 if it is not
// there.
func (p *phrase) match(text string) int { return matchAt(strings.TrimSuffix(p.says, "~"), text) }

func matchAt(says, text string) int {
	n := 0
	for i := 0; i < len(says); i++ {
		switch says[i] {
		case '*':
			for gap := 0; gap <= maxGap && n+gap <= len(text); gap++ {
				if rest := matchAt(says[i+1:], text[n+gap:]); rest >= 0 {
					return n + gap + rest
				}
			}
			return -1
		case '#':
			digits := n
			for n < len(text) && (isDigit(text[n]) || n > digits && (text[n] == '.' || text[n] == ',') && n+1 < len(text) && isDigit(text[n+1])) {
				n++
			}
			if n == digits {
				return -1
			}
		default:
			if n >= len(text) || lower(text[n]) != lower(says[i]) {
				return -1
			}
			n++
		}
	}
	return n
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

func isLetter(c byte) bool { return 'a' <= lower(c) && lower(c) <= 'z' || c >= 0x80 }

func isWord(c byte) bool { return isLetter(c) || isDigit(c) || c == '_' }

// nameStart is where the dotted name begins that has its last part at i.
func nameStart(line string, i int) int {
	for i > 0 && (isWord(line[i-1]) || line[i-1] == '.') {
		i--
	}
	if i > 0 && isBreak(line[:i+1]) {
		i++
	}
	return i
}

// isBreak says that a text ends with an escaped end of a line or a tab: one in
// JSON that is quoted as text.
func isBreak(head string) bool {
	n := len(head)
	return n > 1 && head[n-2] == '\\' && (head[n-1] == 'n' || head[n-1] == 'r' || head[n-1] == 't')
}

func isHostName(prefix string) bool {
	for _, other := range notGPU {
		if strings.HasPrefix(prefix, other) {
			return true
		}
	}
	return false
}
