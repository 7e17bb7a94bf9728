package outofmemory

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
)

const (
	kib = 1 << 10
	mib = 1 << 20
	gib = 1 << 30
)

// said are errors as engines say them, in full. The comment names where the words
// come from; figures are filled in.
var said = []struct {
	engine string
	text   string
	report Report // its figures
}{
	// pytorch: c10/cuda/CUDACachingAllocator.cpp, 2.2 and later
	{"torch", "CUDA out of memory. Tried to allocate 9.00 GiB. GPU 0 has a total capacity of 47.50 GiB of which 3.13 GiB is free. Process " +
		"4711 has 10.00 GiB memory in use. Including non-PyTorch memory, this process has 34.25 GiB memory in use. Of the allocated " +
		"memory 33.50 GiB is allocated by PyTorch, and 256.00 MiB is reserved by PyTorch but unallocated. If reserved but unallocated " +
		"memory is large try setting PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True to avoid fragmentation.",
		Report{Tried: 9 * gib, Free: 3*gib + 13*gib/100, InUse: 34*gib + gib/4, Capacity: 47*gib + gib/2, Others: []Process{{4711, 10 * gib}}}},
	// the same in a container, where no process of the driver's list is its own
	{"torch", "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 23.50 GiB of which " +
		"8.00 MiB is free. Process 2612630 has 23.00 GiB memory in use. Of the allocated memory 22.50 GiB is allocated by PyTorch, " +
		"and 128.00 MiB is reserved by PyTorch but unallocated.",
		Report{Tried: 20 * mib, Free: 8 * mib, InUse: 22*gib + gib/2 + 128*mib, Capacity: 23*gib + gib/2, Others: []Process{{2612630, 23 * gib}}}},
	// pytorch: c10/cuda/CUDACachingAllocator.cpp, 2.1, with its misspelling
	{"torch", "torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 6.50 GiB. GPU 0 has a total capacty of 79.00 GiB of which " +
		"2.50 GiB is free. Including non-PyTorch memory, this process has 76.25 GiB memory in use.",
		Report{Tried: 6*gib + gib/2, Free: 2*gib + gib/2, InUse: 76*gib + gib/4, Capacity: 79 * gib}},
	// pytorch: c10/cuda/CUDACachingAllocator.cpp, up to 2.0
	{"torch", "RuntimeError: CUDA out of memory. Tried to allocate 36.00 MiB (GPU 0; 8.00 GiB total capacity; 130.00 MiB already allocated; " +
		"47.00 MiB free; 188.00 MiB reserved in total by PyTorch) If reserved memory is >> allocated memory try setting max_split_size_mb " +
		"to avoid fragmentation.",
		Report{Tried: 36 * mib, Free: 47 * mib, InUse: 188 * mib, Capacity: 8 * gib}},
	// pytorch: c10/cuda/CUDAException.cpp, 2.8 and later, with get_cuda_error_help
	{"torch", "torch.AcceleratorError: CUDA error: out of memory\nSearch for `cudaErrorMemoryAllocation' in https://docs.nvidia.com/cuda/cuda-runtime" +
		"-api/group__CUDART__TYPES.html for more information.\nCUDA kernel errors might be asynchronously reported at some other API " +
		"call.", Report{}},
	// pytorch: c10/cuda/CUDAException.cpp, before 2.8
	{"torch", "RuntimeError: CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API call, so the " +
		"stacktrace below might be incorrect.", Report{}},
	// pytorch: c10/cuda/driver_api.h
	{"torch", "RuntimeError: CUDA driver error: out of memory", Report{}},
	// pytorch before 1.5: aten/src/THC/THCGeneral.cpp
	{"torch", "RuntimeError: cuda runtime error (2) : out of memory at /opt/conda/conda-bld/pytorch_1524584710464/work/aten/src/THC/generic/THCStorag" +
		"e.cu:58", Report{}},
	// pytorch: c10/cuda/CUDAMallocAsyncAllocator.cpp
	{"torch", "Allocation on device 0 would exceed allowed memory. (out of memory)\nCurrently allocated     : 21.25 GiB\nRequested       " +
		"        : 1.50 GiB\nDevice limit            : 23.50 GiB\nFree (according to CUDA): 16.00 MiB\nPyTorch limit (set by user-supplied " +
		"memory fraction)\n                        : 17179869184.00 GiB",
		Report{Tried: gib + gib/2, Free: 16 * mib, InUse: 21*gib + gib/4, Capacity: 23*gib + gib/2}},
	// pytorch: c10/hip/HIPCachingAllocator.cpp, hipified
	{"torch", "HIP out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 24.00 GiB of which 1.00 GiB is free. Of the allocated " +
		"memory 20.00 GiB is allocated by PyTorch, and 1.00 GiB is reserved by PyTorch but unallocated.",
		Report{Tried: 2 * gib, Free: gib, InUse: 21 * gib, Capacity: 24 * gib}},
	// pytorch: c10/hip/HIPException.cpp, hipified
	{"torch", "RuntimeError: HIP error: out of memory\nHIP kernel errors might be asynchronously reported at some other API call.", Report{}},
	// pytorch: c10/xpu/XPUCachingAllocator.cpp
	{"torch", "torch.OutOfMemoryError: XPU out of memory. Tried to allocate 192.00 MiB. GPU 3 has a total capacity of 31.50 GiB of which " +
		"64.00 MiB is free. Of the allocated memory 30.00 GiB is allocated by PyTorch, and 0.50 GiB is reserved by PyTorch but unallocated.",
		Report{Tried: 192 * mib, Free: 64 * mib, InUse: 30*gib + gib/2, Capacity: 31*gib + gib/2}},
	// Ascend/pytorch: torch_npu/csrc/core/npu/NPUCachingAllocator.cpp
	{"torch", "RuntimeError: NPU out of memory. Tried to allocate 260.00 MiB (NPU 0; 28.50 GiB total capacity; 10.25 GiB already allocated; " +
		"10.25 GiB current active; 149.50 MiB free; 10.50 GiB reserved in total by PyTorch)",
		Report{Tried: 260 * mib, Free: 149*mib + mib/2, InUse: 10*gib + gib/2, Capacity: 28*gib + gib/2}},
	// pytorch: aten/src/ATen/mps/MPSAllocator.mm
	{"torch", "RuntimeError: MPS backend out of memory (MPS allocated: 17.25 GB, other allocations: 613.56 MB, max allowed: 18.13 GB). Tried " +
		"to allocate 192.00 MB on private pool. Use PYTORCH_MPS_HIGH_WATERMARK_RATIO=0.0 to disable upper limit for memory allocations " +
		"(may cause system failure).",
		Report{Tried: 192 * mib, InUse: 17*gib + gib/4}},
	// pytorch: torch/csrc/Exceptions.cpp, the name alone
	{"torch", "torch.OutOfMemoryError", Report{}},
	{"torch", "torch.cuda.OutOfMemoryError", Report{}},
	{"torch", "ray.exceptions.RayTaskError(OutOfMemoryError): ray::Worker.generate()", Report{}},

	// CUDA driver: cuGetErrorName, as tensorflow's cuda_driver.cc prints it
	{"cuda", "failed to allocate 13.76G (14773796864 bytes) from device: CUDA_ERROR_OUT_OF_MEMORY: out of memory", Report{Tried: 14773796864}},
	// the same, as XLA's cuda_driver.cc prints it
	{"cuda", "failed to allocate 2.25KiB (2304 bytes) from device: RESOURCE_EXHAUSTED: : CUDA_ERROR_OUT_OF_MEMORY: out of memory", Report{Tried: 2304}},
	// the same, as numba/cuda/cudadrv/driver.py prints it
	{"cuda", "numba.cuda.cudadrv.driver.CudaAPIError: [2] Call to cuMemAlloc results in CUDA_ERROR_OUT_OF_MEMORY", Report{}},
	// the same, as huggingface/candle (text-embeddings-inference) prints it
	{"cuda", `DriverError(CUDA_ERROR_OUT_OF_MEMORY, "out of memory")`, Report{}},
	// CUDA runtime: cudaGetErrorName, as rapidsai/rmm prints it
	{"cuda", "std::bad_alloc: out_of_memory: CUDA error at: /rmm/mr/device/cuda_memory_resource.hpp:70: cudaErrorMemoryAllocation out of " +
		"memory", Report{}},
	{"cuda", "cupy_backends.cuda.api.runtime.CUDARuntimeError: cudaErrorMemoryAllocation: out of memory", Report{}},
	// ROCm/clr: hipGetErrorName
	{"hip", "hipErrorOutOfMemory: could not allocate 4096 MB", Report{Tried: 4 * gib}},
	{"hip", "RuntimeError: hipErrorMemoryAllocation", Report{}},
	// pytorch: aten/src/ATen/cuda/CUDABlas.cpp
	{"cublas", "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", Report{}},
	// CTranslate2: src/cuda/utils.h
	{"cublas", "RuntimeError: cuBLAS failed with status CUBLAS_STATUS_ALLOC_FAILED", Report{}},
	// onnxruntime: onnxruntime/core/providers/cuda/cuda_call.cc
	{"cublas", "CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED ; GPU=0 ; hostname=gpu ; file=/onnxruntime_src/onnxruntime/core/providers/cuda/cuda_execu" +
		"tion_provider.cc", Report{}},
	// ROCm/hipBLAS, through pytorch's aten/src/ATen/hip
	{"cublas", "RuntimeError: CUDA error: HIPBLAS_STATUS_ALLOC_FAILED when calling `hipblasCreate(handle)`", Report{}},
	// pytorch: aten/src/ATen/cudnn/Exceptions.h
	{"cudnn", "cuDNN error: CUDNN_STATUS_ALLOC_FAILED", Report{}},
	{"cudnn", "RuntimeError: cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED", Report{}},
	// pytorch: aten/src/ATen/cuda/Exceptions.h, aten/src/ATen/native/cuda/CuFFTUtils.h
	{"cuda", "cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate(handle)`", Report{}},
	{"cuda", "cuFFT error: CUFFT_ALLOC_FAILED", Report{}},
	{"cuda", "CUDA error: CUSPARSE_STATUS_ALLOC_FAILED when calling `cusparseCreate(&handle)`", Report{}},
	// triton-lang/triton: third_party/nvidia/backend/driver.c, third_party/amd/backend/driver.c
	{"cuda", "RuntimeError: Triton Error [CUDA]: out of memory", Report{}},
	{"hip", "RuntimeError: Triton Error [HIP]:  Code: 2, Messsage: out of memory", Report{}},
	// apache/tvm (MLC): src/runtime/cuda/cuda_common.h
	{"tvm", "InternalError: Check failed: (e == cudaSuccess || e == cudaErrorCudartUnloading) is false: CUDA: out of memory", Report{}},
	// NVIDIA/nccl: src/include/checks.h and alloc.h, as torch.distributed passes them on
	{"nccl", "torch.distributed.DistBackendError: NCCL error in: ProcessGroupNCCL.cpp:3690, unhandled cuda error (run with NCCL_DEBUG=INFO " +
		"for details), NCCL version 2.27.5\nncclUnhandledCudaError: Call to CUDA function failed.\nLast error:\nCuda failure 2 'out " +
		"of memory'", Report{}},
	{"nccl", "Last error:\nCuda failure 'out of memory'", Report{}},
	{"nccl", "Last error:\nFailed to CUDA calloc 536870912 bytes", Report{Tried: 512 * mib}},
	{"nccl", "ncclUnhandledCudaError: Failed to CUDA calloc async 2432 bytes", Report{Tried: 2432}},
	{"nccl", "Last error:\nFailed to CUDA malloc 1048576 bytes", Report{Tried: mib}},
	// cupy: cupy/cuda/memory.pyx
	{"torch", "cupy.cuda.memory.OutOfMemoryError: Out of memory allocating 1,073,741,824 bytes (allocated so far: 2,147,483,648 bytes).",
		Report{Tried: gib, InUse: 2 * gib}},
	{"cupy", "Out of memory allocating 1,073,741,824 bytes (allocated so far: 2,147,483,648 bytes, limit set to: 2,576,311,910 bytes).",
		Report{Tried: gib, InUse: 2 * gib}},

	// ggml: src/ggml-cuda/ggml-cuda.cu
	{"llama.cpp", "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 20000.00 MiB on device 0: cudaMalloc failed: out of memory",
		Report{Tried: 20000 * mib}},
	{"torch", "CUDA error: out of memory\n  current device: 0, in function alloc at ggml/src/ggml-cuda/ggml-cuda.cu:291\n  ggml_cuda_device_malloc(&p" +
		"tr, look_ahead_size, device)", Report{}},
	{"llama.cpp", "ROCm error: out of memory", Report{}},
	{"llama.cpp", "MUSA error: out of memory", Report{}},
	// ggml: src/ggml-alloc.c, src/ggml-backend.cpp
	{"llama.cpp", "ggml_gallocr_reserve_n: failed to allocate CUDA0 buffer of size 1879048192", Report{Tried: 1879048192}},
	{"llama.cpp", "alloc_tensor_range: failed to allocate ROCm0 buffer of size 1632174080", Report{Tried: 1632174080}},
	// llama.cpp: src/llama-model.cpp, src/llama-context.cpp, src/llama-kv-cache.cpp
	{"llama.cpp", "llama_model_load: error loading model: unable to allocate CUDA0 buffer", Report{}},
	{"llama.cpp", "graph_reserve: failed to allocate compute buffers", Report{}},
	{"llama.cpp", "llama_init_from_model: failed to initialize the context: failed to allocate compute pp buffers", Report{}},
	{"llama.cpp", "llama_init_from_model: failed to initialize the context: failed to allocate buffer for kv cache", Report{}},
	// ggml: src/ggml-vulkan/ggml-vulkan.cpp
	{"llama.cpp", "ggml_vulkan: Device memory allocation of size 1037832192 failed.\nggml_vulkan: vk::Device::allocateMemory: " +
		"ErrorOutOfDeviceMemory", Report{Tried: 1037832192}},
	{"llama.cpp", "ggml_vulkan: vk::Device::allocateMemory: ErrorOutOfDeviceMemory", Report{}},
	{"llama.cpp", "vkAllocateMemory failed: VK_ERROR_OUT_OF_DEVICE_MEMORY", Report{}},
	// ggml: src/ggml-metal/ggml-metal-context.m
	{"llama.cpp", "error: Insufficient Memory (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)", Report{}},
	// oneAPI: ur_api.h, ze_api.h, as ggml: src/ggml-sycl/ggml-sycl.cpp prints them
	{"llama.cpp", "level_zero backend failed with error: 39 (UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY)", Report{}},
	{"llama.cpp", "zeMemAllocDevice: ZE_RESULT_ERROR_OUT_OF_DEVICE_MEMORY", Report{}},
	// whisper.cpp: src/whisper.cpp
	{"whisper.cpp", "whisper_kv_cache_init: failed to allocate memory for the kv cache", Report{}},
	// ollama: llm/status.go, llm/server.go, ml/device.go
	{"llama.cpp", "llama runner process has terminated: cudaMalloc failed: out of memory\nalloc_tensor_range: failed to allocate CUDA0 buffer " +
		"of size 5064192000\nerror loading model: unable to allocate CUDA0 buffer", Report{Tried: 5064192000}},
	{"llama.cpp", "llama-server process has terminated: exit status 1: hipMalloc failed: out of memory", Report{}},
	{"ollama", "memory layout cannot be allocated with num_gpu = 48", Report{}},
	{"ollama", "insufficient memory - required allocations: {InputWeights:525336576 CPU:{Name:CPU}}", Report{}},
	{"ollama", "unable to load full model on GPU", Report{}},
	{"ollama", "out of memory", Report{}},
	// turboderp/exllamav2: exllamav2/model.py
	{"exllama", "RuntimeError: Insufficient VRAM for model and cache", Report{}},

	// vllm: csrc/cumem_allocator.cpp
	{"torch", "RuntimeError: CUDA Error: out of memory at /workspace/csrc/cumem_allocator.cpp:62", Report{}},
	// vllm: vllm/v1/core/kv_cache_utils.py
	{"vllm", "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization` when initializing the engine.", Report{}},
	{"vllm", "ValueError: To serve at least one request with the model's max seq len (131072), (4.00 GiB KV cache is needed, which is larger " +
		"than the available KV cache memory (0.50 GiB). Based on the available memory, the estimated maximum model length is 21440.",
		Report{Tried: 4 * gib, Free: gib / 2}},
	// vllm: vllm/v1/worker/gpu_worker.py
	{"vllm", "ValueError: Free memory on device cuda:0 (3.25/23.43 GiB) on startup is less than desired GPU memory utilization (0.96, 22.49 " +
		"GiB). Decrease GPU memory utilization or reduce GPU memory used by other processes.", Report{}},
	// vllm: vllm/v1/worker/gpu_model_runner.py
	{"torch", "RuntimeError: CUDA out of memory occurred when warming up sampler with 256 dummy requests. Please try lowering `max_num_seqs` " +
		"or `gpu_memory_utilization` when initializing the engine.", Report{}},
	// sglang: python/sglang/srt/mem_cache/common.py, model_executor/pool_configurator.py
	{"sglang", "RuntimeError: Prefill out of memory. Try to lower your batch size.\nTry to allocate 8192 tokens.\nAvailable " +
		"full tokens: 899840", Report{}},
	{"sglang", "Decode out of memory. Try to lower your batch size.\nTry to allocate 12 tokens.", Report{}},
	{"sglang", "RuntimeError: Not enough memory. Please try to increase --mem-fraction-static. Current value: mem_fraction_static=0.8", Report{}},
	{"torch", "Exception: Capture cuda graph failed: CUDA out of memory. Tried to allocate 1.00 GiB.", Report{Tried: gib}},
	// text-generation-inference: server/text_generation_server/models/flash_causal_lm.py, backends/v3/src/lib.rs
	{"tgi", "RuntimeError: Not enough memory to handle 4096 prefill tokens. You need to decrease `--max-batch-prefill-tokens`", Report{}},
	{"tgi", "Server error: Not enough memory to handle `max_total_tokens=8192`", Report{}},
	{"torch", "Request failed during generation: Server error: CUDA out of memory. Tried to allocate 2.00 MiB.", Report{Tried: 2 * mib}},
	// TensorRT-LLM: cpp/include/tensorrt_llm/common/cudaUtils.h
	{"tensorrt-llm", "RuntimeError: [TensorRT-LLM][ERROR] CUDA runtime error in ::cudaMallocAsync(ptr, n, mCudaStream->get()): out of " +
		"memory (/src/tensorrt_" +
		"llm/cpp/tensorrt_llm/runtime/tllmBuffers.h:125)", Report{}},
	// FasterTransformer, lmdeploy: src/turbomind/utils/cuda_utils.h
	{"tensorrt-llm", "[TM][ERROR] CUDA runtime error: out of memory /lmdeploy/src/turbomind/utils/allocator.h:231", Report{}},
	// TensorRT: nvinfer's logger
	{"tensorrt", "[TRT] [W] Requested amount of GPU memory (57662592 bytes) could not be allocated. There may not be enough free memory for " +
		"allocation to succeed.", Report{Tried: 57662592}},
	{"tensorrt", "[executionContext.cpp::initializeExecutionContext::625] Error Code 2: OutOfMemory (Requested size was 20132809216 bytes.)",
		Report{Tried: 20132809216}},
	{"tensorrt", "[defaultAllocator.cpp::allocate::31] Error Code 1: Cuda Runtime (out of memory)", Report{}},
	// triton-inference-server/core: src/cuda_memory_manager.cc
	{"triton", "Failed to allocate CUDA memory with byte size 67108864 on GPU 0: CNMEM_STATUS_OUT_OF_MEMORY", Report{Tried: 64 * mib}},
	// triton-inference-server/python_backend, what a model's Python raises
	{"torch", "Failed to process the request(s) for model instance 'sd_0_0', message: OutOfMemoryError: CUDA out of memory. Tried to allocate " +
		"1.00 GiB.", Report{Tried: gib}},
	// onnxruntime: onnxruntime/core/framework/bfc_arena.cc
	{"onnxruntime", "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while running Conv node. " +
		"Name:'Conv_3' Status Message: " +
		"/onnxruntime_src/onnxruntime/core/framework/bfc_arena.cc:376 void* onnxruntime::BFCArena::AllocateRawInternal(size_t, bool, " +
		"onnxruntime::Stream*, bool, onnxruntime::WaitNotificationFn) Failed to allocate memory for requested buffer of size 2081488896",
		Report{Tried: 2081488896}},
	{"onnxruntime", "bfc_arena.cc:342 onnxruntime::BFCArena::AllocateRawInternal Failed to allocate memory for requested " +
		"buffer of size 33554432", Report{Tried: 32 * mib}},
	{"onnxruntime", "onnxruntime::BFCArena::AllocateRawInternal Available memory of 1048576 is smaller than requested bytes of 4194304",
		Report{Tried: 4 * mib, Free: mib}},
	{"onnxruntime", "BFC Arena ran out of memory trying to allocate 4096.  Current allocation summary follows.", Report{Tried: 4096}},
	// onnxruntime: onnxruntime/core/providers/cuda/cuda_call.cc
	{"onnxruntime", "CUDA failure 2: out of memory ; GPU=0 ; hostname=gpu ; file=/onnxruntime_src/onnxruntime/core/providers/cuda/cuda_allocator.cc " +
		"; line=48 ; expr=cudaMalloc((void**)&p, size);", Report{}},
	// onnxruntime: the DirectML provider
	{"onnxruntime", "Non-zero status code returned while running Add node. Exception(3) tid(9264) 8007000E Not enough memory resources are available " +
		"to complete this operation.", Report{}},
	// CTranslate2: src/cuda/utils.h
	{"ctranslate2", "RuntimeError: CUDA failed with error out of memory", Report{}},
	// tensorflow: core/framework/op_kernel.cc, tsl/framework/bfc_allocator.cc
	{"tensorflow", "OOM when allocating tensor with shape[32,1024,64,64] and type float on /job:localhost/replica:0/task:0/device:GPU:0 by allocator " +
		"GPU_0_bfc [Op:Conv2D]", Report{}},
	{"tensorflow", "ResourceExhaustedError: OOM when allocating tensor with shape[200,75,75,64] and type float on " +
		"/job:localhost/replica:0/task:0/device:G" +
		"PU:0 by allocator GPU_0_bfc", Report{}},
	{"tensorflow", "Allocator (GPU_0_bfc) ran out of memory trying to allocate 1.25GiB with freed_by_count=0.", Report{Tried: gib + gib/4}},
	// openxla/xla: xla/tsl/framework/bfc_allocator.cc and others, as jax raises them
	{"jax", "jax.errors.JaxRuntimeError: RESOURCE_EXHAUSTED: Out of memory while trying to allocate 49807360 bytes.", Report{Tried: 49807360}},
	{"jax", "XlaRuntimeError: RESOURCE_EXHAUSTED: Out of memory while trying to allocate 5.50GiB.", Report{Tried: 5*gib + gib/2}},
	{"jax", "Resource exhausted: Out of memory trying to allocate 2.50GiB.", Report{Tried: 2*gib + gib/2}},
	{"jax", "jaxlib.xla_extension.XlaRuntimeError: RESOURCE_EXHAUSTED: Out of memory allocating 13307782216 bytes.", Report{Tried: 13307782216}},
	{"jax", "RESOURCE_EXHAUSTED: Failed to allocate request for 8.00GiB (8589934592B) on device ordinal 0", Report{Tried: 8 * gib}},
	{"jax", "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used 31.96G of 31.25G hbm.", Report{}},
	// PaddlePaddle: paddle/phi/core/memory/allocation/cuda_allocator.cc
	{"paddle", "Out of memory error on GPU 0. Cannot allocate 15.500000GB memory on GPU 0, 28.750000GB memory has been allocated and available " +
		"memory is only 512.000000MB.", Report{Tried: 15*gib + gib/2, Free: 512 * mib, InUse: 28*gib + 3*gib/4}},

	// ComfyUI: execution.py
	{"comfyui", "Allocation on device \nThis error means you ran out of memory on your GPU.\n\nTIPS: If the workflow worked before you might " +
		"have accidentally set the batch_size to a large number.", Report{}},
	{"comfyui", "This error means you ran out of memory on your GPU.", Report{}},
	// AUTOMATIC1111 and Forge: modules/sd_hijack_optimizations.py, modules/api/api.py
	{"a1111", "RuntimeError: Not enough memory, use lower resolution (max approx. 1152x1152). Need: 6.5GB free, Have:3.5GB free",
		Report{Free: 3*gib + gib/2}},
	{"torch", "OutOfMemoryError", Report{}},
	// what servers around diffusers say
	{"diffusers", "Error: GPU out of memory. Try with shorter text or reduce beam size.", Report{}},
	{"torch", "Image generation failed: CUDA out of memory. Tried to allocate 4.50 GiB (GPU 0; 23.50 GiB total capacity)",
		Report{Tried: 4*gib + gib/2, Capacity: 23*gib + gib/2}},
	{"torch", "RuntimeError('CUDA out of memory. Tried to allocate 1.00 GiB.')", Report{Tried: gib}},
	{"torch", "Error processing request: CUDA out of memory", Report{}},
	{"torch", "Error processing prompt: CUDA error: out of memory", Report{}},
	{"torch", "Failed to generate text: CUDA out of memory. Tried to allocate 1.00 GiB.", Report{Tried: gib}},
	// xoscar (Xinference), which puts an address before it
	{"torch", "[address=0.0.0.0:41935, pid=251] CUDA out of memory. Tried to allocate 1.00 GiB.", Report{Tried: gib}},
	// an error of another server passed on as text
	{"llama.cpp", `http: status 500 Internal Server Error body {"error":{"message":"llama-server process has terminated: exit status 1: cudaMalloc failed: out of memory\nalloc_tensor_range: failed to allocate CUDA0 buffer of size 1879048192","type":"api_error"}}`, Report{Tried: 1879048192}},
}

// judge scans an answer in one piece.
func judge(status int, kind, body string, patterns ...string) (Report, bool) {
	s := Scan(status, http.Header{"Content-Type": {kind}}, patterns)
	s.Write([]byte(body))
	return s.Report(nil)
}

func quoted(text string) string {
	b, _ := json.Marshal(text)
	return string(b)
}

func TestWhatEnginesSay(t *testing.T) {
	engines := map[string]bool{}
	rows := map[string]bool{}
	for _, c := range said {
		engines[c.engine] = true
		for _, line := range strings.Split(c.text, "\n") {
			for at := 0; ; {
				engine, from, to := find(line, at, true)
				if from < 0 {
					break
				}
				rows[engine+line[from:to]], at = true, to
			}
		}
		for shape, body := range map[string]string{
			"application/json, FastAPI": `{"detail":` + quoted(c.text) + `}`,
			"application/json, OpenAI":  `{"error":{"message":` + quoted(c.text) + `,"type":"InternalServerError","param":null,"code":500}}`,
			"text/plain; charset=utf-8": c.text,
			"text/event-stream":         `data: {"error":{"message":` + quoted(c.text) + `}}` + "\n\n",
			"application/x-ndjson":      `{"error":` + quoted(c.text) + `}` + "\n",
			"text/html": "<html><body><pre>Traceback\n" + strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", "'",
				"&#x27;", `"`, "&quot;").Replace(c.text) + "</pre></body></html>",
			"application/json, traceback": `{"error":"failed","traceback":["  File \"x.py\", line 1\n",` + quoted(c.text+"\n") + `]}`,
		} {
			kind, _, _ := strings.Cut(shape, ",")
			r, ok := judge(500, kind, body)
			if !ok || r.Engine != c.engine {
				t.Errorf("%s: %q: got %v %q (%q), want %q", shape, c.text, ok, r.Engine, r.Words, c.engine)
				continue
			}
			want := c.report
			if !near(r.Tried, want.Tried) || !near(r.Free, want.Free) || !near(r.InUse, want.InUse) || !near(r.Capacity, want.Capacity) ||
				!slices.Equal(r.Others, want.Others) {
				t.Errorf("%s: %q:\n got %+v\nwant %+v", shape, c.text, r, want)
			}
		}
	}
	if len(said) < 60 || len(engines) < 15 {
		t.Errorf("%d texts of %d engines, want 60 of 15", len(said), len(engines))
	}
	t.Logf("%d texts of %d engines find %d wordings; the table has %d", len(said), len(engines), len(rows), len(table))
}

// near allows for the two decimals that engines write.
func near(got, want int64) bool { return got-want <= 1 && want-got <= 1 }

// Each phrase of the table is said by at least one of the texts, or is there for
// nothing.
func TestEachPhraseIsSaidSomewhere(t *testing.T) {
	for _, p := range table {
		found := slices.ContainsFunc(said, func(c struct {
			engine string
			text   string
			report Report
		}) bool {
			for i := range c.text {
				if p.match(c.text[i:]) >= 0 {
					return true
				}
			}
			return false
		})
		if !found {
			t.Errorf("%s: %q is in no text", p.engine, p.says)
		}
	}
}

// A phrase that holds another one stands before it.
func TestThePhraseThatSaysMoreComesFirst(t *testing.T) {
	for i, p := range table {
		for _, q := range table[i+1:] {
			if strings.HasPrefix(strings.ToLower(q.says), strings.ToLower(strings.TrimSuffix(p.says, "~"))) && !p.whole {
				t.Errorf("%q comes before %q", p.says, q.says)
			}
		}
	}
}

func TestOtherMemoryIsNotTheGPUs(t *testing.T) {
	for _, text := range []string{
		"model requires more system memory (5.5 GiB) than is available (3.1 GiB)", // ollama: llm/server.go
		"RuntimeError: [enforce fail at alloc_cpu.cpp:83] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate " +
			"35571892224 bytes. Error code 12 (Cannot allocate memory)", // pytorch: c10/core/impl/alloc_cpu.cpp
		"java.lang.OutOfMemoryError: Java heap space",
		"ray.exceptions.OutOfMemoryError: Task was killed due to the node running low on memory.",
		"triton.runtime.errors.OutOfResources: out of resource: shared memory, Required: 163840, Hardware limit: 101376.",
		"ggml_gallocr_reserve_n: failed to allocate CPU buffer of size 37748736000",
		"ggml_backend_alloc: failed to allocate CUDA_Host buffer of size 37748736000",
		"OOM when allocating tensor with shape[209715200,30] and type double on /job:localhost/replica:0/task:0/device:CPU:0 by allocator cpu",
		"RESOURCE_EXHAUSTED: grpc: received message larger than max (5000000 vs. 4194304)",
		"RESOURCE_EXHAUSTED: quota exceeded for requests",
		"Worker ran out of memory and was killed (signal 9)",
		"MemoryError: Unable to allocate 3.20 GiB for an array with shape (20000, 21474) and data type float64", // numpy
		"Cannot allocate memory",
		"ENOMEM: not enough memory, mmap",
		"maximum context length is 4096 tokens",
		"CUDA error: an illegal memory access was encountered",
		"CUDA error: device-side assert triggered",
		"CUDA error: no kernel image is available for execution on the device",
		"cuDNN error: CUDNN_STATUS_NOT_INITIALIZED",
		"CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
		"failed to allocate memory for the request body",
	} {
		if r, ok := judge(500, "application/json", `{"detail":`+quoted(text)+`}`); ok {
			t.Errorf("%q: found %s %q", text, r.Engine, r.Words)
		}
	}
}

func TestPatternsOfTheConfigurationAdd(t *testing.T) {
	const text = "our allocator says: no more room, sorry"
	if _, ok := judge(500, "application/json", `{"error":`+quoted(text)+`}`); ok {
		t.Fatal("the table knows it")
	}
	r, ok := judge(503, "application/json", `{"error":`+quoted(text)+`}`, "no more room")
	if !ok || r.Engine != "" || r.Words != "no more room" {
		t.Errorf("got %v %+v", ok, r)
	}
	if r, ok := judge(500, "application/json", `{"prompt":`+quoted(text)+`}`, "no more room"); ok {
		t.Errorf("found in what the client sent: %+v", r)
	}
}

func ExampleScan() {
	s := Scan(500, http.Header{"Content-Type": {"application/json"}}, nil)
	fmt.Fprint(s, `{"detail":"CUDA out of memory. Tried to allocate 9.00 GiB. GPU 0 has a total capacity of 47.54 GiB of which 3.13 GiB is free."}`)
	r, ok := s.Report(nil)
	fmt.Println(ok, &r)
	// Output: true CUDA out of memory (torch), 9.00 GiB tried, 3.13 GiB free
}
