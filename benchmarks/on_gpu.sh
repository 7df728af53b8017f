# All that has to be seen on a GPU, in about six minutes: sh benchmarks/on_gpu.sh [python] [folder for the results]
# Both parts are run, whatever comes of the first; the exit status says whether both went well.
python=${1:-python3}; out=${2:-.}
export PYTHONPATH="$PWD/src${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 HANDFUL_TEST_CUDA=1
timeout 300 "$python" -m pytest -q -p no:cacheprovider tests/test_cuda.py 2>&1 | tee "$out/test_cuda.txt"
grep -q ' passed' "$out/test_cuda.txt" && ! grep -q ' failed\| error' "$out/test_cuda.txt"; tests=$?
timeout 240 "$python" benchmarks/bench_gpu.py --rounds 3 2>&1 | tee "$out/bench_gpu.txt"
grep -q 'cnn at batch' "$out/bench_gpu.txt" && exit $tests
exit 1
