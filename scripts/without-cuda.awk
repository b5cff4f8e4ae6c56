# A lock without torch, its companions and what only its CUDA build needs; a package's hashes go with it.
/^[^ #]/ { left_out = /^(torch==|torchaudio==|torchvision==|triton==|nvidia-|cuda-)/ }
!left_out
