# requirements.lock without torch and what only its CUDA build needs; a package's hashes go with it.
/^[^ #]/ { left_out = /^(torch==|torchaudio==|triton==|nvidia-|cuda-)/ }
!left_out
