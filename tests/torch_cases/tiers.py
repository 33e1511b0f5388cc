"""The functions and methods of torch that people call most often: the first tier more often than the second."""

from __future__ import annotations

FIRST = """
__getitem__ sub add mul div neg pow matmul __rmul__ randn __rsub__ ones zeros eq __radd__ __rdiv__ gt lt cat
arange le ge ne stack log exp zeros_like eye reshape unsqueeze expand sum to where transpose view mean item sqrt
permute max ones_like mm norm logsumexp full split abs clamp log1p softmax clone einsum nn.functional.relu
squeeze sigmoid contiguous float flatten any nn.functional.softplus all cos sin min log_softmax T isnan diag
cumsum linspace gather nn.functional.conv2d tril var t nn.functional.dropout full_like dot unbind sort
nn.functional.layer_norm diagonal flip nn.functional.max_pool2d sign rsqrt nn.functional.linear amax argmax
index_select nn.functional.avg_pool2d prod nn.functional.cross_entropy round tanh erf floor std
nn.functional.nll_loss reciprocal bmm square mv nn.functional.batch_norm repeat topk triu
nn.functional.adaptive_avg_pool2d maximum double narrow nn.functional.gelu nn.functional.binary_cross_entropy
nn.functional.conv1d outer masked_fill chunk nn.functional.binary_cross_entropy_with_logits
nn.functional.embedding tan nn.functional.elu nn.functional.leaky_relu addmm select scatter minimum
nn.functional.mse_loss nn.functional.silu atan2 argmin nn.functional.l1_loss masked_select scatter_add
""".split()

SECOND = """
empty __rpow__ allclose nn.functional.pad trace linalg.norm lgamma nn.functional.scaled_dot_product_attention
randint linalg.cholesky nn.functional.interpolate empty_like equal nn.functional.normalize broadcast_to
new_zeros multinomial broadcast_tensors ceil isfinite linalg.inv long digamma meshgrid nn.functional.unfold
unfold linalg.vector_norm nn.functional.group_norm nn.functional.one_hot zero_ argsort diag_embed unique bool
expand_as bernoulli repeat_interleave isclose new_ones linalg.solve roll expm1 cdist nn.functional.kl_div
nn.functional.logsigmoid nonzero xlogy normal nn.functional.cosine_similarity randn_like median view_as
logaddexp nn.functional.smooth_l1_loss atan nn.functional.instance_norm nn.functional.rms_norm kthvalue log2
addcmul isinf nn.functional.relu6 nn.functional.softmin logical_not nn.functional.avg_pool1d
nn.functional.conv_transpose2d nn.functional.cosine_embedding_loss nn.functional.max_pool1d nn.functional.prelu
nn.functional.selu nn.functional.triplet_margin_loss rand_like var_mean cumprod amin half dist logit
nn.functional.huber_loss clamp_min nn.functional.glu nn.functional.hardswish nn.functional.hardtanh
nn.functional.mish addcdiv baddbmm diff logical_and logical_or nn.functional.gaussian_nll_loss
nn.functional.softsign tensordot tile vdot erfc int linalg.det log10 movedim unflatten acos lerp fmod
masked_scatter sgn sinh __rmatmul__ addbmm addmv asin clamp_max cosh count_nonzero cross cummax cummin exp2 fill
floor_divide frac hstack hypot index_add index_copy index_fill index_put inner kron logical_xor nan_to_num
nanmean nansum ravel remainder rsub scatter_reduce searchsorted split_with_sizes std_mean take take_along_dim
tensor_split true_divide trunc vstack
""".split()

TIERS = {"tier 1": FIRST, "tier 2": SECOND}
