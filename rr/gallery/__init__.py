"""Search a folder of images: `rr embed` writes their feature vectors, `rr retrieve` finds the most similar images.

    images             list the image files of a folder and decode them
    feature_extractor  a backbone, with the image size, mean and std that it expects
    index              feature vectors in a Parquet file, which is reused as long as it is valid
    embed              `rr embed`: write the vectors of a folder
    search             cosine similarity
    retrieve           `rr retrieve`: search a folder and keep its index up to date
    page               the results of a search as an HTML page

To answer quickly, a search imports neither numba, FFCV, scikit-learn nor `rr.params`, and torchvision only for the
backbones that come from it.
"""
