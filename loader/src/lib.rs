//! Weights and configurations, memory-mapped: safetensors (single, sharded), PyTorch `.pth`, GGUF.
