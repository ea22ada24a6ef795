/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cuda.cu - the CUDA back end: choice of the card, memory, copies, errors.
 *
 * One stream carries everything.  A failure of the runtime is kept as it
 * happens or, if a kernel met it, at the next wait; so are ids and targets that
 * a kernel found outside of their range (it reads row 0 instead and goes on).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cuda.h"

void
sal_cuda_note(struct sal_dev *dev, const char *who, cudaError_t e)
{
	if (e != cudaSuccess)
		sal_dev_fail(dev, "%s on cuda: %s", who, cudaGetErrorString(e));
}

struct cuda_priv *
sal_cuda_here(struct sal_dev *dev)
{
	struct cuda_priv *p = (struct cuda_priv *)dev->priv;

	sal_cuda_note(dev, "cudaSetDevice", cudaSetDevice(p->ordinal));
	return p;
}

static cudaError_t
start(struct cuda_priv *p, cublasStatus_t *s)
{
	cudaError_t e;
	struct cudaDeviceProp prop;

	if ((e = cudaSetDevice(p->ordinal)) != cudaSuccess || (e = cudaGetDeviceProperties(&prop, p->ordinal)) != cudaSuccess)
		return e;
	snprintf(p->name, sizeof p->name, "%s", prop.name);
	if ((e = cudaStreamCreate(&p->stream)) != cudaSuccess || (e = cudaMalloc(&p->blas_room, SAL_CUDA_BLAS)) != cudaSuccess ||
	    (e = cudaMalloc((void **)&p->fault, sizeof *p->fault)) != cudaSuccess ||
	    (e = cudaMemsetAsync(p->fault, 0, sizeof *p->fault, p->stream)) != cudaSuccess)
		return e;
	if ((*s = cublasCreate(&p->blas)) == CUBLAS_STATUS_SUCCESS && (*s = cublasSetStream(p->blas, p->stream)) == CUBLAS_STATUS_SUCCESS &&
	    (*s = cublasSetWorkspace(p->blas, p->blas_room, SAL_CUDA_BLAS)) == CUBLAS_STATUS_SUCCESS)
		*s = cublasSetMathMode(p->blas,
		    (cublasMath_t)(CUBLAS_DEFAULT_MATH | CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION));
	return cudaStreamSynchronize(p->stream);
}

int
sal_cuda_open(struct sal_dev *dev, int ordinal, int threads, char *err, size_t errlen)
{
	struct cuda_priv *p;
	cublasStatus_t s = CUBLAS_STATUS_SUCCESS;
	int cards = 0;
	cudaError_t e = cudaGetDeviceCount(&cards);

	(void)threads;
	if (e != cudaSuccess || cards == 0) {
		snprintf(err, errlen, "device 'cuda': no card can be used: %s", e != cudaSuccess ? cudaGetErrorString(e) : "there is none");
		return -1;
	}
	if (ordinal >= cards) {
		snprintf(err, errlen, "device 'cuda:%d': this machine has %d", ordinal, cards);
		return -1;
	}
	p = (struct cuda_priv *)calloc(1, sizeof *p);
	if (!p) {
		snprintf(err, errlen, "out of memory");
		return -1;
	}
	p->ordinal = ordinal;
	dev->priv = p;
	e = start(p, &s);
	if (e != cudaSuccess || s != CUBLAS_STATUS_SUCCESS) {
		snprintf(err, errlen, "device 'cuda:%d': %s", ordinal,
		    e != cudaSuccess ? cudaGetErrorString(e) : cublasGetStatusString(s));
		sal_cuda_close(dev);
		return -1;
	}
	dev->isa = p->name;
	dev->threads = 1;
	return 0;
}

void
sal_cuda_close(struct sal_dev *dev)
{
	struct cuda_priv *p = (struct cuda_priv *)dev->priv;

	if (!p)
		return;
	cudaSetDevice(p->ordinal);
	if (p->stream)
		cudaStreamSynchronize(p->stream);
	if (p->blas)
		cublasDestroy(p->blas);
	for (int i = 0; i < SAL_SLOT_COUNT; i++)
		cudaFree(p->block[i]);
	cudaFree(p->blas_room);
	cudaFree(p->fault);
	if (p->stream)
		cudaStreamDestroy(p->stream);
	free(p);
	dev->priv = NULL;
}

int
sal_cuda_sync(struct sal_dev *dev)
{
	struct cuda_priv *p = sal_cuda_here(dev);
	int fault = 0;

	if (!dev->error[0])
		sal_cuda_note(dev, "copy", cudaMemcpyAsync(&fault, p->fault, sizeof fault, cudaMemcpyDeviceToHost, p->stream));
	/* after a failure too: a copy may still be writing to the caller's memory */
	sal_cuda_note(dev, "a kernel", cudaStreamSynchronize(p->stream));
	if (fault == SAL_FAULT_ID)
		sal_dev_fail(dev, "embedding_forward: an id is outside the vocabulary");
	if (fault == SAL_FAULT_TARGET)
		sal_dev_fail(dev, "logprob: a target is outside the vocabulary");
	return dev->error[0] ? -1 : 0;
}

void *
sal_cuda_alloc(struct sal_dev *dev, size_t bytes)
{
	void *m = NULL;

	sal_cuda_here(dev);
	if (cudaMalloc(&m, bytes) != cudaSuccess) {
		cudaGetLastError(); /* this failure is told by the caller */
		return NULL;
	}
	return m;
}

void
sal_cuda_free(struct sal_dev *dev, void *m)
{
	struct cuda_priv *p = sal_cuda_here(dev);

	cudaStreamSynchronize(p->stream);
	cudaFree(m);
}

void
sal_cuda_upload(struct sal_dev *dev, void *dst, const void *src, size_t bytes)
{
	struct cuda_priv *p = sal_cuda_here(dev);

	if (!bytes)
		return;
	sal_cuda_note(dev, "upload", cudaMemcpyAsync(dst, src, bytes, cudaMemcpyHostToDevice, p->stream));
	sal_cuda_note(dev, "upload", cudaStreamSynchronize(p->stream));
}

void
sal_cuda_download(struct sal_dev *dev, void *dst, const void *src, size_t bytes)
{
	struct cuda_priv *p = sal_cuda_here(dev);

	if (bytes)
		sal_cuda_note(dev, "download", cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToHost, p->stream));
	sal_cuda_sync(dev);
}

size_t
sal_cuda_free_bytes(struct sal_dev *dev)
{
	size_t room = 0, all = 0;

	sal_cuda_here(dev);
	sal_cuda_note(dev, "cudaMemGetInfo", cudaMemGetInfo(&room, &all));
	return room;
}

void *
sal_cuda_scratch(struct sal_dev *dev, enum sal_slot slot, size_t bytes)
{
	struct cuda_priv *p = sal_cuda_here(dev);

	if (bytes > p->size[slot] || !p->block[slot]) {
		sal_cuda_note(dev, "scratch", cudaStreamSynchronize(p->stream));
		cudaFree(p->block[slot]);
		p->block[slot] = sal_cuda_alloc(dev, bytes);
		p->size[slot] = p->block[slot] ? bytes : 0;
		if (!p->block[slot])
			sal_dev_fail(dev, "out of memory: %zu bytes of working memory on cuda", bytes);
	}
	return p->block[slot];
}
