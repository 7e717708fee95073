"""Search a folder of images: `rr embed` writes feature vectors, and `rr retrieve` finds the most similar images.

    images             list the image files of a folder and decode them
    feature_extractor  a backbone, with the image size, mean and std that it expects
    index              a Parquet file of feature vectors, which is reused as long as it is valid
    embed              `rr embed`: write the vectors of a folder
    search             find the most similar vectors by cosine similarity
    retrieve           `rr retrieve`: search a folder and keep its index up to date
    search_page        render search results as an HTML page

To answer quickly, a search does not import numba, FFCV, scikit-learn or `rr.params`. It imports torchvision only if the
backbone comes from torchvision.
"""
